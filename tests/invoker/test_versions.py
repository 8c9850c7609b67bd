"""Each Python that the host has: its base layer starts, its standard library works, its agent forks and answers."""

from __future__ import annotations

import pytest

from builder.layers import LayerStore
from builder.processes import Processes
from builder.runtimes.python import base, interpreter
from builder.runtimes.python.interpreter import Interpreter
from invoker.sandbox import Sandbox

from .lab import Lab, error, result

CODE = """
import asyncio, ctypes, dataclasses, hashlib, json, logging, sqlite3, ssl, subprocess, sys, tomllib, zoneinfo
import collections.abc, ctypes.util, email.mime.text, importlib.metadata, json.tool, logging.config

async def handler(event, context):
    await asyncio.sleep(0)
    if event == "fail":
        raise ValueError(context.function_name)
    with sqlite3.connect(":memory:") as database:
        one = database.execute("select 1").fetchone()[0]
    zone = zoneinfo.ZoneInfo("Europe/Zurich").key
    certificates = len(ssl.create_default_context().get_ca_certs()) > 50
    child = subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True, check=True).stdout.decode().strip()
    return [list(sys.version_info[:2]), one, zone, certificates, child, hashlib.sha256(b"").hexdigest()[:4]]
"""


@pytest.fixture(scope="session")
def interpreters() -> dict[str, Interpreter]:
    return interpreter.find_all()


@pytest.mark.parametrize("runtime", sorted(interpreter.find_all()))
@pytest.mark.parametrize("lab", ["bwrap"], indirect=True)
async def test_a_function_runs_on(lab: Lab, interpreters: dict[str, Interpreter], runtime: str) -> None:
    stored, _ = base.ensure_for(LayerStore(lab.data), interpreters[runtime], Processes())
    sandbox = await Sandbox.start(lab.driver, lab.data, runtime, stored.layer)
    lab.sandboxes.append(sandbox)
    plain = lab.revision(CODE, runtime=runtime)
    loaded = await sandbox.specialise(plain._replace(layers=(stored.layer, *plain.layers[1:])))
    assert loaded.error is None, loaded
    one, two = await sandbox.fork(), await sandbox.fork()
    for instance in (one, two):
        assert await result(instance) == [[3, int(runtime.partition(".")[2])], 1, "Europe/Zurich", True, "7", "e3b0"]
    assert (await error(one, "fail"))["errorMessage"] == "hello"
