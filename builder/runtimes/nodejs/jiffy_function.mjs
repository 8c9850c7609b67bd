// One function inside a microcontainer: its environment, its handler, its context, one event through it.
//
// The agent (agent.mjs) and the HTTP server of the image (serve.mjs) both run it: a function cannot tell which. Node's
// standard library only. Errors and log lines are in AWS Lambda's words (its Node.js runtime client).

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

const TASK = "/var/task";
const SUFFIXES = [".js", ".mjs", ".cjs"]; // in the order in which Lambda looks
const MESSAGE_MAX_CHARS = 64 * 1024; // of an error: enough for people, and small beside a result
const LEVELS = { debug: "DEBUG", error: "ERROR", info: "INFO", log: "INFO", trace: "TRACE", warn: "WARN" };

const exit = process.exit.bind(process);
const write = process.stdout.write.bind(process.stdout);
// What keeps the process alive between calls, and not during one: an event loop that empties is then seen.
const keeper = setInterval(() => {}, 2 ** 31 - 1);

let invocation = ""; // the one that runs
let current = null; // its Call

/** Give this process the function's environment and Lambda's log lines, and leave nothing else in `process.env`. */
export function prepare(env) {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, env);
  process.chdir(TASK);
  process.argv.length = 1;
  for (const [name, level] of Object.entries(LEVELS)) {
    console[name] = (...values) => log(level, format(...values));
  }
  console.trace = (...values) => log("TRACE", new Error(format(...values)).stack.replace(/^Error/, "Trace"));
}

function log(level, text) {
  write(`${new Date().toISOString()}\t${invocation || "undefined"}\t${level}\t${text}\n`);
}

/** The error JSON of whatever was thrown, as Lambda's Node.js client makes it. */
export function describe(thrown, type) {
  try {
    if (thrown instanceof Error || Object.prototype.toString.call(thrown) === "[object Error]") {
      const message = String(thrown.message).slice(0, MESSAGE_MAX_CHARS);
      const trace = String(thrown.stack ?? "").slice(0, MESSAGE_MAX_CHARS).split("\n").filter((line) => !ours(line));
      return { errorType: type ?? String(thrown.name), errorMessage: message, trace };
    }
    const message = typeof thrown === "object" && thrown !== null ? format("%j", thrown) : String(thrown);
    return { errorType: type ?? typeof thrown, errorMessage: message.slice(0, MESSAGE_MAX_CHARS), trace: [] };
  } catch (inner) {
    return { errorType: type ?? "Error", errorMessage: "(its text could not be made)", trace: [] };
  }
}

function ours(line) {
  return line.includes("file:///var/runtime/") || line.includes("at node:internal/process/task_queues");
}

/** Tell the log, and have the error as JSON text. */
export function told(error, what = "Invoke Error") {
  const { errorType, errorMessage, trace } = error;
  log("ERROR", `${what} \t${JSON.stringify({ errorType, errorMessage, stack: trace })}`);
  return JSON.stringify(error);
}

// --- the handler ---------------------------------------------------------------------------------------------
export class LoadError extends Error {
  constructor(error) {
    super(error.errorMessage);
    this.error = error;
  }
}

function refuse(errorType, errorMessage, trace = []) {
  return new LoadError({ errorType, errorMessage, trace });
}

/** The function that "module:attribute" names. Throws LoadError, in Lambda's words. */
export async function load(handler) {
  const [name, attribute] = handler.split(":");
  const file = find(name);
  if (file === undefined) {
    throw refuse("Runtime.ImportModuleError", `Error: Cannot find module '${name}'`);
  }
  let module;
  try {
    module = await bring(file);
  } catch (thrown) {
    throw new LoadError(unloaded(thrown));
  }
  const found = module[attribute] ?? module.default?.[attribute];
  if (found === undefined || found === null) {
    throw refuse("Runtime.HandlerNotFound", `${name}.${attribute} is undefined or not exported`);
  }
  if (typeof found !== "function") {
    throw refuse("Runtime.HandlerNotFound", `${name}.${attribute} is not a function`);
  }
  return found;
}

function find(name) {
  for (const place of [name.replaceAll(".", "/"), name]) {
    for (const suffix of SUFFIXES) {
      if (existsSync(join(TASK, place + suffix))) return join(TASK, place + suffix);
    }
  }
  return undefined;
}

/** CommonJS by require, whose names need no analysis; an ES module by import. */
async function bring(file) {
  if (!file.endsWith(".mjs")) {
    try {
      return createRequire(join(dirname(file), "_"))(file);
    } catch (thrown) {
      if (!["ERR_REQUIRE_ESM", "ERR_REQUIRE_ASYNC_MODULE"].includes(thrown?.code)) throw thrown;
    }
  }
  return import(pathToFileURL(file).href);
}

function unloaded(thrown) {
  const error = describe(thrown);
  if (["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND"].includes(thrown?.code)) {
    return { ...error, errorType: "Runtime.ImportModuleError", errorMessage: `Error: ${error.errorMessage}` };
  }
  if (thrown instanceof SyntaxError) {
    const where = error.trace[0]?.startsWith("/") ? ` (${basename(error.trace[0])})` : "";
    return {
      ...error,
      errorType: "Runtime.UserCodeSyntaxError",
      errorMessage: `SyntaxError: ${error.errorMessage}${where}`,
    };
  }
  return error;
}

// --- one event -----------------------------------------------------------------------------------------------
class Call {
  constructor() {
    this.waits = true; // callbackWaitsForEmptyEventLoop
    this.kept = null; // the outcome of a callback that waits for that
    this.outcome = new Promise((resolve) => (this.end = resolve));
  }

  /** The function is done: at once, or when nothing is left to do. Only the first word counts. */
  settle(failed, value, { waits }) {
    if (this.kept !== null) return;
    this.kept = { failed, value };
    if (!waits) this.end(this.kept);
  }

  empty() {
    this.end(this.kept ?? { failed: false, value: undefined });
  }
}

process.on("beforeExit", () => {
  if (current !== null) setImmediate((call) => call.empty(), current);
});

function contextOf(about, call) {
  const done = (failed, value) => call.settle(failed, value, { waits: call.waits });
  return {
    get callbackWaitsForEmptyEventLoop() {
      return call.waits;
    },
    set callbackWaitsForEmptyEventLoop(value) {
      call.waits = Boolean(value);
    },
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: undefined,
    identity: undefined,
    invokedFunctionArn: about.arn,
    awsRequestId: about.id,
    getRemainingTimeInMillis: () => Math.max(0, about.deadlineMs - Date.now()),
    done: (error, result) => (error ? done(true, error) : done(false, result)),
    fail: (error) => done(true, error),
    succeed: (result) => done(false, result),
  };
}

/** A value that a handler without a callback may simply return; a timer or a request is none. */
function isPlain(value) {
  if (value === undefined) return false;
  if (typeof value !== "object" || value === null || Array.isArray(value)) return typeof value !== "function";
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

function start(handler, event, context, call) {
  const callback = (error, result) => context.done(error, result);
  const returned = handler(event, context, callback);
  if (typeof returned?.then === "function") {
    returned.then(
      (value) => call.settle(false, value, { waits: false }),
      (thrown) => call.settle(true, thrown ?? new Error("the handler's promise was rejected"), { waits: false }),
    );
  } else if (handler.length < 3 && isPlain(returned)) {
    call.settle(false, returned, { waits: false });
  }
}

/** { ok, payload }: the result, or the error's JSON. `about`: { id, arn, deadlineMs }. */
export async function run(handler, text, about) {
  invocation = about.id;
  const call = (current = new Call());
  keeper.unref();
  let outcome;
  try {
    let event;
    try {
      event = JSON.parse(text);
    } catch (thrown) {
      return failure("Runtime.UnmarshalError", `Unable to unmarshal input: ${thrown.message}`);
    }
    try {
      start(handler, event, contextOf(about, call), call);
    } catch (thrown) {
      call.settle(true, thrown, { waits: false });
    }
    outcome = await call.outcome;
  } finally {
    current = null;
    keeper.ref();
  }
  if (outcome.failed) return { ok: false, payload: told(describe(outcome.value)) };
  try {
    return { ok: true, payload: JSON.stringify(outcome.value) ?? "null" };
  } catch (thrown) {
    return failure("Runtime.MarshalError", `Unable to marshal response: ${thrown.message}`);
  }
}

export function failure(errorType, errorMessage) {
  return { ok: false, payload: told({ errorType, errorMessage, trace: [] }) };
}

/** What nobody caught ends the process: `answer(error JSON, is a call running?)` comes first. */
export function guard(answer) {
  const fall = async (error, what) => {
    try {
      await answer(told(error, what), current !== null);
    } finally {
      exit(1);
    }
  };
  process.on("uncaughtException", (thrown) => fall(describe(thrown), "Uncaught Exception"));
  process.on("unhandledRejection", (reason) => {
    const { errorMessage, trace, errorType } = describe(reason);
    const text = reason instanceof Error ? `${errorType}: ${errorMessage}` : errorMessage;
    fall({ errorType: "Runtime.UnhandledPromiseRejection", errorMessage: text, trace }, "Unhandled Promise Rejection");
  });
}
