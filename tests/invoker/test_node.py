"""Node.js functions in real sandboxes: one behaviour, two drivers, seen as the pool sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from invoker.client import Client
from invoker.microcontainer import Loaded, State
from invoker.program import Program
from invoker.sandbox import Exit, Reply
from jiffy.contract.messages import Revision
from tests.conftest import NodeLayers, need

from .lab import Lab

pytestmark = pytest.mark.root

CODE = """
const fs = require("node:fs");
console.log("imported");
let calls = 0;
exports.handler = async (event, context) => {
  calls += 1;
  switch (event?.do) {
    case "throw": throw new TypeError("no such thing");
    case "text": throw "only text";
    case "circle": { const circle = {}; circle.self = circle; return circle; }
    case "stray": Promise.reject(new RangeError("nobody waits")); await new Promise((done) => setTimeout(done, 5000));
    case "uncaught": setTimeout(() => { throw new Error("later"); }, 1);
      await new Promise((done) => setTimeout(done, 5000));
    case "exit": process.exit(5);
    case "hang": for (;;);
    case "memory": { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); }
    case "context": {
      const { functionName, functionVersion, memoryLimitInMB, awsRequestId, invokedFunctionArn } = context;
      const left = context.getRemainingTimeInMillis();
      return [functionName, functionVersion, memoryLimitInMB, awsRequestId, invokedFunctionArn,
              left > 0 && left <= 10000, process.env.GREETING, process.env._HANDLER,
              Object.keys(process.env).includes("AWS_LAMBDA_RUNTIME_API")];
    }
    case "walls": {
      const writable = (path) => { try { return !fs.accessSync(path, fs.constants.W_OK); } catch { return false; } };
      const zone = { timeZone: "Europe/Berlin", month: "long", hour: "numeric" };
      return [process.getuid() !== 0, ["/tmp", "/var/task", "/opt/nodejs", "/var/runtime", "/"].map(writable),
              new Date("2026-07-01T12:00Z").toLocaleString("de", zone),
              require("node:tls").rootCertificates.length > 50];
    }
    case "print": console.warn("with %s", "a name"); process.stdout.write("plain\\n");
      require("node:child_process"); return calls;
    default: return [event, calls];
  }
};
exports.callback = (event, context, callback) => {
  setTimeout(() => callback(event.fail ? new Error("by callback") : null, { answered: event }), 1);
};
let late = "";
exports.waits = (event, context, callback) => {
  if (event === "late") return callback(null, late);
  context.callbackWaitsForEmptyEventLoop = event.wait;
  late = "not yet";
  setTimeout(() => { late = "done"; }, 50);
  callback(null, event.wait);
};
exports.old = (event, context) => {
  if (event === "fail") context.fail(new Error("by fail"));
  else if (event === "done") context.done(null, "done");
  else setTimeout(() => context.succeed("succeeded"), 1);
};
exports.plain = (event) => ({ plain: event });
exports.never = async () => new Promise(() => {});
exports.notAFunction = 5;
"""
ESM = """
import { readFile } from "node:fs/promises";
import shout from "shout";
import { createRequire } from "node:module";
const soft = createRequire(import.meta.url)("@voice/soft");
const own = JSON.parse(await readFile(new URL("./data.json", import.meta.url), "utf8"));
export const handler = async (event) => [shout(event), soft(event), own];
"""
FILES = {
    "index.js": CODE,
    "src/lib/modern.mjs": ESM,
    "src/lib/data.json": '{"own": true}',
    "bad.js": "exports.handler = (;\n",
}
FILES |= {"throws.js": 'throw new Error("no start");', "lacks.js": 'require("nowhere");', "ends.js": "process.exit(3);"}
FILES |= {"rejects.mjs": 'Promise.reject(new Error("at once")); await new Promise(() => {});'}
PACKAGES = {
    "node_modules/shout/package.json": '{"name": "shout", "type": "module", "exports": "./main.js"}',
    "node_modules/shout/main.js": "export default (text) => text.toUpperCase();",
    "node_modules/@voice/soft/index.js": "module.exports = (text) => text.toLowerCase();",
}

Start = Callable[..., Awaitable[tuple[Program, Loaded]]]
Make = Callable[..., Awaitable[Client]]


@pytest.fixture
async def begin(lab: Lab, node_layers: NodeLayers) -> AsyncIterator[Start]:
    programs: list[Program] = []
    node_layers.seed(lab.data)
    base = node_layers.base.layer

    async def start(handler: str = "index:handler", **changes: Any) -> tuple[Program, Loaded]:
        program = await Program.start(lab.driver, lab.data, node_layers.node.runtime, base)
        programs.append(program)
        assert program.state is State.STEM
        layers = (base, lab.layer("deps", PACKAGES), lab.layer("code", FILES))
        plain = lab.revision("", runtime=node_layers.node.runtime, handler=handler, layers=layers)
        revision: Revision = plain._replace(**changes)
        return program, await program.specialise(revision)

    yield start
    for program in programs:
        await program.close()


@pytest.fixture
def instance(begin: Start) -> Make:
    async def make(handler: str = "index:handler", **changes: Any) -> Client:
        program, loaded = await begin(handler, **changes)
        assert loaded.error is None, loaded
        return await program.fork()

    return make


async def call(client: Client, event: object, timeout_s: float = 10.0) -> Reply | Exit:
    return await client.call({"id": "0190-call"}, json.dumps(event).encode(), timeout_s)


async def result(client: Client, event: object) -> Any:
    reply = await call(client, event)
    assert isinstance(reply, Reply), (reply, client.read_log())
    assert reply.ok, reply
    return json.loads(reply.payload)


async def error(client: Client, event: object) -> dict[str, Any]:
    reply = await call(client, event)
    assert isinstance(reply, Reply), (reply, client.read_log())
    assert not reply.ok, reply
    found: dict[str, Any] = json.loads(reply.payload)
    return found


async def test_a_stem_becomes_a_function_which_answers(instance: Make) -> None:
    client = await instance()
    assert await result(client, {"ü": "☃" * 70000}) == [{"ü": "☃" * 70000}, 1]
    assert await result(client, None) == [None, 2]
    context = [
        "hello",
        "7",
        "128",
        "0190-call",
        "urn:jiffy:acme:function:hello:7",
        True,
        "hello",
        "index.handler",
        False,
    ]
    assert await result(client, {"do": "context"}) == context
    ours = [True, [True, False, False, False, False], "Juli um 14 Uhr", True]
    assert await result(client, {"do": "walls"}) == ours
    program = client.sandbox
    assert isinstance(program, Program)
    await program.freeze()
    await program.thaw()
    assert (await result(client, 1))[1] == 5
    await client.close()
    assert program.state is State.CLOSED


async def test_modules_of_both_kinds_and_packages(instance: Make) -> None:
    client = await instance("src.lib.modern:handler")
    assert await result(client, "Ada") == ["ADA", "ada", {"own": True}]


@pytest.mark.parametrize(
    ("handler", "event", "answer"),
    [
        ("callback", {"a": 1}, {"answered": {"a": 1}}),
        ("old", "succeed", "succeeded"),
        ("old", "done", "done"),
        ("plain", 1, {"plain": 1}),
        ("never", 1, None),
    ],
)
async def test_every_style_of_handler(instance: Make, handler: str, event: object, answer: object) -> None:
    client = await instance(f"index:{handler}")
    assert await result(client, event) == answer
    assert await result(client, event) == answer


async def test_a_callback_waits_for_an_empty_event_loop_unless_told_not_to(instance: Make) -> None:
    client = await instance("index:waits")
    assert await result(client, {"wait": True}) is True
    assert await result(client, "late") == "done"
    assert await result(client, {"wait": False}) is False
    assert await result(client, "late") == "not yet"


async def test_its_errors_are_as_lambda_shapes_them(instance: Make) -> None:
    client = await instance()
    thrown = await error(client, {"do": "throw"})
    assert (thrown["errorType"], thrown["errorMessage"]) == ("TypeError", "no such thing")
    assert thrown["trace"][0] == "TypeError: no such thing"
    assert "/var/task/index.js:" in thrown["trace"][1]
    assert not [line for line in thrown["trace"] if "/var/runtime" in line]
    assert await error(client, {"do": "text"}) == {"errorType": "string", "errorMessage": "only text", "trace": []}
    assert (await error(client, {"do": "circle"}))["errorType"] == "Runtime.MarshalError"
    text = client.read_log().decode()
    assert "\t0190-call\tERROR\tInvoke Error \t" in text
    assert '"errorType":"TypeError"' in text
    for handler, event, message in (("callback", {"fail": 1}, "by callback"), ("old", "fail", "by fail")):
        assert (await error(await instance(f"index:{handler}"), event))["errorMessage"] == message


async def test_what_nobody_catches_is_told_and_ends_the_process(instance: Make) -> None:
    for event, kind, message in (
        ("stray", "Runtime.UnhandledPromiseRejection", "RangeError: nobody waits"),
        ("uncaught", "Error", "later"),
    ):
        client = await instance()
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.on_exit = lambda _, gone=gone: gone.set_result(None)  # type: ignore[misc]
        reply = await call(client, {"do": event})
        assert isinstance(reply, Reply), reply
        found = json.loads(reply.payload)
        assert (reply.ok, reply.last, found["errorType"], found["errorMessage"]) == (False, True, kind, message)
        await asyncio.wait_for(gone, 10)


@pytest.mark.parametrize(("event", "reason"), [("exit", "exit"), ("hang", "timeout"), ("memory", "out_of_memory")])
async def test_it_ends_instead_of_answering(instance: Make, event: str, reason: str) -> None:
    client = await instance()
    program = client.sandbox
    assert isinstance(program, Program)
    if reason == "out_of_memory":
        need("no control groups here" if program._group is None else "")
    end = await call(client, {"do": event}, 0.5 if event == "hang" else 10.0)
    assert isinstance(end, Exit)
    assert end.reason == reason
    await program.close()


@pytest.mark.parametrize(
    ("handler", "kind", "message"),
    [
        ("bad:handler", "Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected token ';'"),
        ("throws:handler", "Error", "no start"),
        ("lacks:handler", "Runtime.ImportModuleError", "Cannot find module 'nowhere'"),
        ("nowhere:handler", "Runtime.ImportModuleError", "Cannot find module 'nowhere'"),
        ("index:nothing", "Runtime.HandlerNotFound", "index.nothing is undefined or not exported"),
        ("index:notAFunction", "Runtime.HandlerNotFound", "is not a function"),
        ("rejects:handler", "Runtime.UnhandledPromiseRejection", "Error: at once"),
        ("ends:handler", "Runtime.ExitError", "exit status 3"),
    ],
)
async def test_a_failing_start_is_the_functions_own_failure(
    begin: Start, handler: str, kind: str, message: str
) -> None:
    _, loaded = await begin(handler)
    assert loaded.error is not None
    found = json.loads(loaded.error)
    assert found["errorType"] == kind
    assert message in found["errorMessage"]


async def test_its_log_bears_the_invocation(instance: Make, begin: Start) -> None:
    _, loaded = await begin()
    assert loaded.log.endswith(b"\tundefined\tINFO\timported\n")
    client = await instance()
    assert await result(client, {"do": "print"}) == 1
    lines = client.read_log().decode().splitlines()
    assert lines[0].endswith("\t0190-call\tWARN\twith a name")
    assert lines[1] == "plain"
