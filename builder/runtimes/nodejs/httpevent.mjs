// HTTP request → event, result → HTTP response, as AWS API Gateway's payload format 2.0 has them.
//
// The same contract as jiffy/contract/httpevent.py, for `docker run` of a Node.js image: a test holds the two against
// each other.

const HOP_BY_HOP = new Set([
  "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
  "upgrade", "content-length",
]);
const TEXT = [
  "text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/; // all but the tab
const [HEADERS_MAX, HEADERS_MAX_BYTES, FIELDS_MAX] = [200, 64 * 1024, 1000];
const fatal = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What HTTP can't carry, or a request that is none. */
export class Unfit extends Error {}

function isText(contentType) {
  const kind = contentType.split(";", 1)[0].trim().toLowerCase();
  return !kind || TEXT.some((start) => kind.startsWith(start)) || kind.endsWith("+json") || kind.endsWith("+xml");
}

/** The event of one request, as JSON. `headers`: pairs with lower-case names, in order; `body`: a Buffer. */
export function event({ method, path, rawQuery, headers, body, sourceIp, requestId, protocol, nowMs }) {
  const merged = Object.create(null);
  const cookies = [];
  for (const [name, value] of headers) {
    if (name === "cookie") cookies.push(...value.split(";").map((part) => part.trim()).filter(Boolean));
    else merged[name] = name in merged ? `${merged[name]},${value}` : value;
  }
  const host = merged.host ?? "";
  const document = {
    version: "2.0",
    routeKey: "$default",
    rawPath: path,
    rawQueryString: rawQuery,
    headers: merged,
    requestContext: {
      accountId: "anonymous",
      apiId: "jiffy",
      domainName: host,
      domainPrefix: host.split(".", 1)[0],
      http: { method, path, protocol, sourceIp, userAgent: merged["user-agent"] ?? "" },
      requestId,
      routeKey: "$default",
      stage: "$default",
      time: moment(nowMs),
      timeEpoch: nowMs,
    },
    isBase64Encoded: false,
  };
  if (cookies.length) document.cookies = cookies;
  if (rawQuery) document.queryStringParameters = query(rawQuery);
  if (body.length) [document.body, document.isBase64Encoded] = textOrBase64(body, merged["content-type"] ?? "");
  return JSON.stringify(document);
}

function moment(nowMs) {
  const at = new Date(nowMs);
  const day = `${two(at.getUTCDate())}/${MONTHS[at.getUTCMonth()]}/${at.getUTCFullYear()}`;
  return `${day}:${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())} +0000`;
}

const two = (number) => String(number).padStart(2, "0");

function query(raw) {
  const found = Object.create(null);
  if (raw.split("&").length > FIELDS_MAX) throw new Unfit("Max number of fields exceeded");
  for (const [name, value] of new URLSearchParams(raw)) {
    found[name] = name in found ? `${found[name]},${value}` : value;
  }
  return found;
}

function textOrBase64(body, contentType) {
  if (isText(contentType)) {
    try {
      return [fatal.decode(body), false];
    } catch {
      // it claims to be text, and is not
    }
  }
  return [body.toString("base64"), true];
}

/** A path with its percent escapes resolved, whatever they make. */
export function unquote(path) {
  return path.replace(/(?:%[0-9A-Fa-f]{2})+/g, (run) => Buffer.from(run.replaceAll("%", ""), "hex").toString("utf8"));
}

/** [status, pairs of headers, body] for a handler's JSON result. Throws Unfit, saying which part HTTP can't carry. */
export function response(result) {
  const document = result.includes('"statusCode"') ? JSON.parse(result) : null;
  if (document === null || typeof document !== "object" || Array.isArray(document) || !("statusCode" in document)) {
    return [200, [["content-type", "application/json"]], Buffer.from(result)];
  }
  return [statusOf(document.statusCode), headersOf(document), bodyOf(document)];
}

function statusOf(value) {
  const stated = typeof value === "string" && /^\s*\d+\s*$/.test(value) ? Number(value) : value;
  const status = typeof stated === "number" ? Math.trunc(stated) : 0;
  if (!(status >= 200 && status <= 599)) {
    throw new Unfit(`statusCode must be an integer from 200 to 599, not ${shown(value)}`);
  }
  return status;
}

function headersOf(document) {
  const given = document.headers || {};
  const cookies = document.cookies || [];
  if (typeof given !== "object" || Array.isArray(given)) throw new Unfit("headers must be an object");
  if (!Array.isArray(cookies)) throw new Unfit("cookies must be an array");
  const listed = document.multiValueHeaders ? several(given, document.multiValueHeaders) : Object.entries(given);
  if (listed.length + cookies.length > HEADERS_MAX) throw new Unfit(`more than ${HEADERS_MAX} headers and cookies`);
  const pairs = [];
  for (const [name, value] of listed) {
    const lower = name.toLowerCase();
    if (HOP_BY_HOP.has(lower) || lower.startsWith("jiffy-")) continue; // the connection's, and the platform's
    if (!TOKEN.test(lower)) throw new Unfit(`${shown(name)} is no header name`);
    pairs.push([lower, headerValue(name, value)]);
  }
  if (!pairs.some(([name]) => name === "content-type")) pairs.push(["content-type", "application/json"]);
  pairs.push(...cookies.map((cookie) => ["set-cookie", headerValue("cookies", cookie)]));
  if (pairs.reduce((sum, [name, value]) => sum + name.length + value.length, 0) > HEADERS_MAX_BYTES) {
    throw new Unfit(`headers and cookies of more than ${HEADERS_MAX_BYTES} bytes`);
  }
  return pairs;
}

/** Headers together with those of multiValueHeaders, format 1.0's way to say a name more than once. */
function several(single, lists) {
  if (typeof lists !== "object" || Array.isArray(lists) || !Object.values(lists).every(Array.isArray)) {
    throw new Unfit("multiValueHeaders must be an object of arrays");
  }
  const names = new Set(Object.keys(lists).map((name) => name.toLowerCase()));
  const pairs = Object.entries(single).filter(([name]) => !names.has(name.toLowerCase()));
  return pairs.concat(Object.entries(lists).flatMap(([name, values]) => values.map((value) => [name, value])));
}

function headerValue(name, value) {
  if (!["boolean", "number", "string"].includes(typeof value)) {
    throw new Unfit(`header ${shown(name)} must be a string, not ${value === null ? "null" : typeof value}`);
  }
  const text = String(value);
  if (CONTROL.test(text)) throw new Unfit(`header ${shown(name)} has a control character in it, such as a line break`);
  if (/[^\x00-\xff]/.test(text)) {
    throw new Unfit(`header ${shown(name)} has characters outside latin-1; percent-encode them`);
  }
  return text;
}

function bodyOf(document) {
  const { body, isBase64Encoded } = document;
  if (body === undefined || body === null) return Buffer.alloc(0);
  if (typeof body !== "string") {
    throw new Unfit(`body must be a string, not ${typeof body}: use JSON.stringify for an object`);
  }
  if (!isBase64Encoded) return Buffer.from(body);
  if (body.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(body)) {
    throw new Unfit("isBase64Encoded is set but body is not base64");
  }
  return Buffer.from(body, "base64");
}

/** For an error's text: a function may name things as large as its result. */
function shown(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 100 ? text : `${text.slice(0, 99)}…`;
}
