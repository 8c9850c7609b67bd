"""The examples in other languages: built as their README says, deployed, called, against a real `jiffy up`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import NodeLayers, need
from tests.platforms import Up, platform

pytestmark = [pytest.mark.redis, pytest.mark.root]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module", params=[pytest.param("docker", marks=pytest.mark.docker), "bwrap"])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with platform(tmp_path_factory.mktemp("languages") / "data", "--sandbox", request.param) as up:
        yield up


def build(example: str, tmp_path: Path) -> Path:
    """The example's folder, copied, with what the first command of its README makes in it."""
    folder = tmp_path / "examples" / example
    shutil.copytree(EXAMPLES / example, folder)
    commands = re.search(r"```sh\n(.+?)\n", (folder / "README.md").read_text())
    assert commands is not None
    words = commands[1].split()
    need("" if shutil.which(words[0]) else f"no {words[0]} here")
    subprocess.run(words, cwd=tmp_path, check=True, timeout=400)
    return folder


def report(up: Up, name: str) -> str:
    return next(line for line in up.jiffy("logs", name).stdout.splitlines() if "REPORT" in line)


def test_c(up: Up, tmp_path: Path) -> None:
    up.jiffy("deploy", str(build("c-echo", tmp_path)))
    answer = up.invoke("c-echo", {"name": "Ada"})
    assert answer.json() == {"language": "C", "event": {"name": "Ada"}}
    assert up.invoke("c-echo", [1]).json()["event"] == [1]
    assert "14 bytes" in up.jiffy("logs", "c-echo").stdout
    assert "Memory Size: 128 MB" in report(up, "c-echo")
    image: dict[str, Any] = up.json("image", "c-echo", "--data", str(up.data))
    assert image["runtime"] == "provided"
    assert image["user_share"] > 0.99, "nothing but itself"
    assert up.json("show", "c-echo")["handler"] == "bootstrap"


def test_rust(up: Up, tmp_path: Path) -> None:
    up.jiffy("deploy", str(build("rust-primes", tmp_path)))
    assert up.invoke("rust-primes", {"below": 1000}).json() == {"below": 1000, "primes": 168}
    refused = up.invoke("rust-primes", {"below": "many"})
    assert refused.json()["errorType"] == "BadEvent"
    assert up.get("/function/rust-primes").status_code == 502


@pytest.mark.timeout(500)  # the first build compiles Go's library, too
def test_go(up: Up, tmp_path: Path) -> None:
    up.jiffy("deploy", str(build("go-words", tmp_path)))
    answer = up.invoke("go-words", {"text": "To be or not to be"}).json()
    assert answer == {"words": 6, "counts": {"to": 2, "be": 2, "or": 1, "not": 1}}
    assert up.invoke("go-words", {}).json()["errorType"] == "BadEvent"
    assert up.json("image", "go-words", "--data", str(up.data))["user_share"] > 0.999, "nothing but itself"


NODE = """
const { pid } = process;
let calls = 0;
exports.handler = async (event, context) => {
  calls += 1;
  if (event.do === "throw") throw new TypeError("no such thing");
  if (event.do === "stray") { Promise.reject(new Error("stray")); await new Promise((done) => setTimeout(done, 9000)); }
  if (event.do === "hang") for (;;);
  return { calls, started: performance.timeOrigin };
};
"""
NODE_TOML = """
[functions.{name}]
runtime = "nodejs"
handler = "index.handler"
timeout_s = 2
"""


def test_node(up: Up, tmp_path: Path, node_layers: NodeLayers) -> None:
    command = [str(node_layers.node.executable), str(node_layers.node.npm), "view", "ms@2.1.3", "version"]
    need("no npm registry here" if subprocess.run(command, capture_output=True, timeout=60).returncode else "")
    node_layers.seed(up.data)
    up.jiffy("deploy", str(EXAMPLES / "node-hello"))
    answer = up.invoke("node-hello", {"name": "Ada", "within": "2 days"})
    assert answer.headers["jiffy-cold"] == "true"
    assert answer.json() == {"message": "Hello, Ada!", "within_ms": 172_800_000} | {"left_ms": answer.json()["left_ms"]}
    assert up.get("/node-hello?name=Grace").json()["message"] == "Hello, Grace!"
    assert "\tINFO\tgreeting Ada" in up.jiffy("logs", "node-hello").stdout
    assert "Memory Size: 128 MB" in report(up, "node-hello")
    image: dict[str, Any] = up.json("image", "node-hello", "--data", str(up.data))
    assert image["runtime"] == node_layers.node.runtime
    assert [(one["name"], one["version"]) for one in image["packages"]] == [("ms", "2.1.3")]
    assert node_layers.node.runtime in up.json("status")["builders"][0]["runtimes"]


def test_a_node_function_fails_and_is_replaced_as_others_are(up: Up, tmp_path: Path, node_layers: NodeLayers) -> None:
    node_layers.seed(up.data)
    toml = NODE_TOML.format(name="keeps") + NODE_TOML.format(name="once") + 'reuse = "never"\n'
    up.deploy(tmp_path / "node", toml + NODE_TOML.format(name="twice") + "max_requests = 2\n", index__js=NODE)
    first, second = up.invoke("keeps").json(), up.invoke("keeps").json()
    assert (first["calls"], second) == (1, {**first, "calls": 2})
    thrown = up.invoke("keeps", {"do": "throw"}).json()
    assert (thrown["errorType"], thrown["trace"][0]) == ("TypeError", "TypeError: no such thing")
    shown = up.jiffy("invoke", "keeps", '{"do": "throw"}', status=1).stderr
    assert "at exports.handler (/var/task/index.js:6" in shown and "TypeError: no such thing" in shown
    assert up.invoke("keeps").json()["calls"] == 5, "an error ends no instance"
    assert up.invoke("keeps", {"do": "stray"}).json()["errorType"] == "Runtime.UnhandledPromiseRejection"
    assert up.invoke("keeps").json()["calls"] == 1, "what nobody catches does"
    late = up.invoke("keeps", {"do": "hang"}).json()
    assert late["errorType"] == "Sandbox.Timedout"
    assert [up.invoke("once").json()["calls"] for _ in range(3)] == [1, 1, 1]
    assert [up.invoke("twice").json()["calls"] for _ in range(4)] == [1, 2, 1, 2]


def test_an_image_that_is_an_http_server(up: Up, tmp_path: Path, docker_engine: docker.DockerClient) -> None:
    folder = build("http-image", tmp_path)
    made, _ = docker_engine.images.build(path=str(folder), tag=(name := f"jiffy-test-{os.getpid()}"))
    try:
        toml = (folder / "jiffy.toml").read_text().replace("docker:http-image", f"docker:{name}")
        (folder / "jiffy.toml").write_text(toml)
        up.jiffy("deploy", str(folder))
        saved = b"".join(made.save())
    finally:
        docker_engine.images.remove(made.id, force=True)
    answer = up.get("/echo/a?b=1")
    assert answer.json() == {"language": "C", "method": "GET", "path": "/echo/a?b=1", "bytes": 0}
    assert up.http.post("/function/http-image/x", content=b"12345").json()["bytes"] == 5
    assert up.invoke("http-image", {"any": "event"}).json()["method"] == "POST"
    assert "GET /echo/a?b=1" in up.jiffy("logs", "http-image").stdout
    assert "Memory Size: 128 MB" in report(up, "http-image")
    image: dict[str, Any] = up.json("image", "http-image", "--data", str(up.data))
    assert [layer["kind"] for layer in image["layers"]] == ["base"]
    other = tmp_path / "archived"
    other.mkdir()
    (other / "app.tar").write_bytes(saved)
    (other / ".jiffyignore").write_text("!/app.tar\n")
    toml = '[functions.archived]\nruntime = "image"\nimage = "archive:app.tar"\nhttp_port = 9999\n'
    assert up.deploy(other, toml)
    assert up.get("/function/archived").json()["language"] == "C"


CLIENT = """#!/usr/local/bin/python3
import sys

sys.path[:0] = ["/var/task", "/opt/python"]
from awslambdaric.__main__ import main

main(["awslambdaric", "app.handler"])
"""
APP = """import os
def handler(event, context):
    if event == "fail":
        raise KeyError("no such key")
    print("called", context.aws_request_id)
    return [event, context.function_name, context.memory_limit_in_mb, context.get_remaining_time_in_millis() > 0,
            sorted(os.listdir("/var/runtime")) if os.path.isdir("/var/runtime") else []]
"""


def test_an_unmodified_awslambdaric(up: Up, tmp_path: Path) -> None:
    wanted = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--dry-run",
        "--target",
        str(tmp_path / "none"),
        "awslambdaric",
    ]
    need("no package index here" if subprocess.run(wanted, capture_output=True, timeout=60).returncode else "")
    folder = tmp_path / "ric"
    toml = '[functions.ric]\nruntime = "provided"\nhandler = "app.handler"\nmemory_mb = 256\n'
    up.deploy(folder, toml, bootstrap=CLIENT, app__py=APP, requirements__txt="awslambdaric\n")
    assert up.invoke("ric", {"a": "ü"}).json() == [{"a": "ü"}, "ric", "256", True, []]
    refused = up.invoke("ric", "fail").json()
    assert (refused["errorType"], refused["errorMessage"]) == ("KeyError", "'no such key'")
    assert "called " in up.jiffy("logs", "ric").stdout


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("", "there is none"),
        ("#!/bin/sh\nexec true\n", "neither an ELF executable nor a script for Python"),
        ("\x7fELF nothing", "built for another kind of machine"),
    ],
)
def test_what_can_not_run_is_refused(up: Up, tmp_path: Path, file: str, says: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "jiffy.toml").write_text('[functions.bad]\nruntime = "provided"\n')
    (folder / "other").write_text("x")
    if file:
        (folder / "bootstrap").write_text(file)
    assert says in up.jiffy("deploy", str(folder), status=1).stderr
