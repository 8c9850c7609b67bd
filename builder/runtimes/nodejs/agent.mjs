// The agent: what runs inside a microcontainer of a Node.js function. It lies in the image as /var/runtime/agent.mjs.
//
// Node can't fork, so an instance is a sandbox of its own: this process waits as a stem, is told its function, imports
// it, and then asks for one event after the other. It is a client of the Lambda Runtime API (invoker/runtime_api.py)
// with one more request, /jiffy/load, for a stem to wait at. What a function is: jiffy_function.mjs, beside it.

import { connect } from "node:net";

import { LoadError, describe, guard, load, prepare, run, told } from "./jiffy_function.mjs";

const BASE = "/2018-06-01/runtime";
const HEAD_END = Buffer.from("\r\n\r\n");

/** One connection, one request at a time, answers with a Content-Length: all that the invoker's server says. */
class Api {
  constructor(address) {
    const [host, port] = address.split(":");
    this.pieces = [];
    this.size = 0;
    this.missing = 0; // until there is something to look at
    this.head = null;
    this.socket = connect({ host, port: Number(port), noDelay: true });
    this.socket.unref(); // what keeps the process alive is jiffy_function's to say
    this.socket.on("data", (data) => this.take(data));
    this.socket.on("close", () => process.exit(0)); // the invoker is gone
    this.socket.on("error", () => process.exit(0));
  }

  ask(method, path, body = "", headers = "") {
    const content = Buffer.from(body);
    const head = `${method} ${path} HTTP/1.1\r\nHost: runtime\r\n${headers}Content-Length: ${content.length}\r\n\r\n`;
    this.socket.cork();
    this.socket.write(head, "latin1");
    this.socket.write(content);
    this.socket.uncork();
    return new Promise((resolve) => (this.resolve = resolve));
  }

  take(data) {
    this.pieces.push(data);
    this.size += data.length;
    if (this.size < this.missing) return;
    const all = this.pieces.length === 1 ? data : Buffer.concat(this.pieces);
    if (this.head === null) {
      const end = all.indexOf(HEAD_END);
      if (end < 0) {
        this.pieces = [all];
        return;
      }
      this.head = new Map(all.latin1Slice(0, end).split("\r\n").slice(1).map(pair));
      this.start = end + HEAD_END.length;
      this.missing = this.start + Number(this.head.get("content-length"));
    }
    if (all.length < this.missing) {
      this.pieces = [all];
      return;
    }
    const answer = { headers: this.head, body: all.utf8Slice(this.start, this.missing) };
    this.pieces = [];
    this.size = this.missing = 0;
    this.head = null;
    this.resolve(answer);
  }
}

function pair(line) {
  const colon = line.indexOf(":");
  return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
}

async function main() {
  const api = new Api(process.env.AWS_LAMBDA_RUNTIME_API);
  const { handler: name, env } = JSON.parse((await api.ask("GET", "/jiffy/load")).body);
  let id = "";
  let handler;
  guard(async (error, running) => {
    if (running) await api.ask("POST", `${BASE}/invocation/${id}/error`, error, "Jiffy-Last: 1\r\n");
    else if (handler === undefined) await api.ask("POST", `${BASE}/init/error`, error);
  });
  prepare(env);
  try {
    handler = await load(name);
  } catch (thrown) {
    const error = thrown instanceof LoadError ? thrown.error : describe(thrown);
    await api.ask("POST", `${BASE}/init/error`, told(error, "Init Error"));
    process.exit(1);
  }
  for (;;) {
    const { headers, body } = await api.ask("GET", `${BASE}/invocation/next`);
    id = headers.get("lambda-runtime-aws-request-id");
    process.env._X_AMZN_TRACE_ID = headers.get("lambda-runtime-trace-id");
    const about = {
      id,
      arn: headers.get("lambda-runtime-invoked-function-arn"),
      deadlineMs: Number(headers.get("lambda-runtime-deadline-ms")),
    };
    const { ok, payload } = await run(handler, body, about);
    await api.ask("POST", `${BASE}/invocation/${id}/${ok ? "response" : "error"}`, payload);
  }
}

await main();
