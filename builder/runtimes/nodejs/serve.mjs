// What an image runs by itself: one function behind a plain HTTP server. `docker run -p 8080:8080 IMAGE`
//
// It lies in the image as /var/runtime/serve.mjs and takes its settings from the image's JIFFY_* variables. Requests
// become the same events, and results the same responses, as on the platform. One call runs at a time, as in an
// instance. A call that takes longer than the timeout is answered 504 and ends the process: let your engine restart it.
// (One that never lets go of the thread can be stopped by the engine alone.)

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

import { Unfit, event, response, unquote } from "./httpevent.mjs";
import { LoadError, describe, failure, guard, load, prepare, run, told } from "./jiffy_function.mjs";

const PORT = 8080;
const BODY_MAX = 6 * 1024 * 1024; // limits.PAYLOAD_MAX_BYTES
const DISCARD_MAX = 64 * 1024 * 1024;
const RAW_PATH = "/2015-03-31/functions/function/invocations"; // where AWS's local emulator takes a raw event
const exit = process.exit.bind(process);

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function bodyOf(request) {
  if (request.headers["transfer-encoding"]) throw new Refused(411, "send the body with a Content-Length");
  const length = Number(request.headers["content-length"] ?? 0);
  const pieces = [];
  let read = 0;
  for await (const piece of request) {
    read += piece.length;
    if (length <= BODY_MAX) pieces.push(piece);
    else if (read > DISCARD_MAX) break; // most clients read no answer before they have sent all
  }
  if (length > BODY_MAX) throw new Refused(413, `the body has ${length} bytes; at most ${BODY_MAX} are allowed`);
  return Buffer.concat(pieces);
}

function eventOf(request, body, requestId) {
  const [path, ...rest] = request.url.split("?");
  const headers = [];
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    headers.push([request.rawHeaders[at].toLowerCase(), request.rawHeaders[at + 1]]);
  }
  return event({
    method: request.method,
    path: unquote(path) || "/",
    rawQuery: rest.join("?"),
    headers,
    body,
    sourceIp: (request.socket.remoteAddress ?? "").replace(/^::ffff:/, ""),
    requestId,
    protocol: `HTTP/${request.httpVersion}`,
    nowMs: Date.now(),
  });
}

class Server {
  constructor(handler, name, timeoutMs) {
    this.handler = handler;
    this.arn = `urn:jiffy:local:function:${name}:1`;
    this.timeoutMs = timeoutMs;
    this.turn = Promise.resolve(); // the end of the call before
    this.answering = null; // the response of the call that runs
  }

  async handle(request, out) {
    const id = randomUUID();
    const raw = request.method === "POST" && request.url === RAW_PATH;
    let text;
    try {
      const body = await bodyOf(request);
      text = raw ? body.toString() || "{}" : eventOf(request, body, id);
    } catch (thrown) {
      if (!(thrown instanceof Unfit || thrown instanceof Refused)) {
        if (request.destroyed) return; // its client hung up before all was sent: no reason to end others' calls
        throw thrown;
      }
      out.shouldKeepAlive = false;
      return answer(out, thrown.status ?? 400, [], failure("InvalidRequest", thrown.message).payload);
    }
    const before = this.turn;
    this.turn = before.then(() => this.call(text, id, out, raw)).catch((thrown) => {
      told(describe(thrown), "Server Error"); // the next call must have its turn all the same
      out.destroy();
    });
    return this.turn;
  }

  async call(text, id, out, raw) {
    this.answering = out;
    const late = setTimeout(() => {
      const message = `${id} Task timed out after ${(this.timeoutMs / 1000).toFixed(2)} seconds`;
      this.last(504, failure("Sandbox.Timedout", message).payload);
    }, this.timeoutMs).unref();
    const { ok, payload } = await run(this.handler, text, { id, arn: this.arn, deadlineMs: Date.now() + this.timeoutMs });
    clearTimeout(late);
    this.answering = null;
    if (raw) answer(out, 200, ok ? [] : [["x-amz-function-error", "Unhandled"]], payload);
    else if (!ok) answer(out, 502, [], payload);
    else {
      try {
        answer(out, ...response(payload));
      } catch (thrown) {
        if (!(thrown instanceof Unfit)) throw thrown;
        answer(out, 502, [], failure("Jiffy.BadResponse", thrown.message).payload);
      }
    }
  }

  /** The last words of this process. */
  last(status, payload) {
    return new Promise((resolve) => {
      if (this.answering === null) return resolve();
      this.answering.on("close", resolve);
      this.answering.shouldKeepAlive = false;
      return answer(this.answering, status, [], payload);
    }).then(() => exit(1));
  }
}

function answer(out, status, headers, body) {
  const empty = status === 204 || status === 304;
  if (!headers.some(([name]) => name === "content-type")) headers = [["content-type", "application/json"], ...headers];
  if (!empty) headers = [...headers, ["content-length", String(Buffer.byteLength(body))]];
  out.sendDate = false;
  out.writeHead(status, headers.flat());
  out.end(empty ? undefined : body);
}

async function main() {
  const env = { ...process.env };
  const settings = (name, otherwise) => env[`JIFFY_${name}`] ?? otherwise;
  const [name, handlerName] = [settings("FUNCTION"), settings("HANDLER")];
  const [memoryMb, timeoutMs] = [settings("MEMORY_MB", "128"), Number(settings("TIMEOUT_MS", "3000"))];
  const port = Number(settings("PORT", PORT));
  const own = Object.fromEntries(Object.entries(env).filter(([key]) => !key.startsWith("JIFFY_")));
  let server = null;
  guard((error) => server?.last(502, error));
  prepare({
    PATH: "/usr/local/bin:/usr/bin:/bin",
    HOME: "/tmp",
    LANG: "C.UTF-8",
    TZ: "UTC",
    ...own,
    _HANDLER: handlerName.replace(":", "."),
    AWS_LAMBDA_FUNCTION_NAME: name,
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: memoryMb,
    AWS_LAMBDA_FUNCTION_VERSION: "1",
    AWS_LAMBDA_LOG_GROUP_NAME: `/jiffy/${name}`,
    AWS_LAMBDA_LOG_STREAM_NAME: "[1]0",
    LAMBDA_TASK_ROOT: "/var/task",
    LAMBDA_RUNTIME_DIR: "/var/runtime",
    JIFFY_FUNCTION: name,
    JIFFY_REVISION: "1",
  });
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => exit(0)); // process 1 has no default
  try {
    server = new Server(await load(handlerName), name, timeoutMs);
  } catch (thrown) {
    told(thrown instanceof LoadError ? thrown.error : describe(thrown), "Init Error");
    exit(1);
  }
  const http = createServer((request, out) => server.handle(request, out));
  // What keeps the process alive is jiffy_function's to say: during a call, only what the function itself does.
  http.on("connection", (socket) => socket.unref());
  http.listen(port).unref();
}

await main();
