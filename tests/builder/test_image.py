"""Images: named, found, exported the same way twice; and one that Docker loads and that serves by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from builder import image
from builder.build import Builder
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract.errors import NotFound
from jiffy.contract.messages import BuildRequest
from tests.builder.archives import digest, pack, wheel
from tests.builder.served import ask, running

CODE = """
import os, greeter

def handler(event, context):
    if event.get("rawPath") == "/boom":
        raise ValueError("boom")
    if event.get("rawPath") == "/slow":
        import time; time.sleep(60)
    if event.get("rawPath") == "/raw":
        return {"statusCode": 201, "headers": {"X-A": "b"}, "cookies": ["c=1"], "body": "made"}
    print("called")
    return {"who": greeter.NAME, "function": context.function_name, "user": os.getuid(), "env": os.environ["GREETING"],
            "query": event.get("queryStringParameters"), "x": event.get("x")}
"""


def make(
    data: Path,
    interpreters: dict[str, Interpreter],
    environ: dict[str, str],
    files: dict[str, str],
    timeout_s: float = 3,
) -> str:
    archive = pack(files)
    spec = {"handler": "app:handler", "env": {"GREETING": "hello"}, "timeout_s": timeout_s, "description": "Greets."}
    request = BuildRequest("b", "default", "greet", spec, digest(archive), 0)
    builder = Builder(data, interpreters, environ, Processes())
    made = builder.make(request, archive, lambda step: None).image
    builder.name("default/greet:1", made)
    return made


def test_an_image_depends_on_its_parts_alone(
    warm_data: Path, interpreters: dict[str, Interpreter], tmp_path: Path
) -> None:
    files = {"app.py": "def handler(e, c): ...\n"}
    one = make(warm_data, interpreters, {}, files)
    assert make(warm_data, interpreters, {}, files) == one
    assert make(warm_data, interpreters, {}, files | {"app.py": "handler = print\n"}) != one
    for name in ("a.tar", "b.tar"):
        image.export(warm_data, one, tmp_path / name, "jiffy/greet:1")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        member = archive.extractfile("manifest.json")
        assert member is not None
        (entry,) = json.load(member)
        names = archive.getnames()
    assert entry["RepoTags"] == ["jiffy/greet:1"]
    assert {entry["Config"], *entry["Layers"]} < set(names)


def test_the_newest_revision_is_found_and_a_missing_one_named(
    warm_data: Path, interpreters: dict[str, Interpreter]
) -> None:
    one = make(warm_data, interpreters, {}, {"app.py": "def handler(e, c): ...\n"})
    two = make(warm_data, interpreters, {}, {"app.py": "handler = print\n"})
    image.name(warm_data, "default/greet:9", one)
    image.name(warm_data, "default/greet:10", two)
    image.name(warm_data, "default/greet-more:11", one)
    assert image.find(warm_data, "default", "greet") == (10, two)
    assert image.find(warm_data, "default", "greet", 9) == (9, one)
    with pytest.raises(NotFound, match="no image of revision 8 of 'greet'"):
        image.find(warm_data, "default", "greet", 8)
    with pytest.raises(NotFound, match="no image of function 'other'"):
        image.find(warm_data, "default", "other")


def export(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", "export", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True)


def test_exporting_what_is_not_there_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    done = export(data_dir, "nobody", str(tmp_path / "x.tar"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no image of function 'nobody'" in done.stderr
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.docker
def test_docker_loads_the_image_and_it_answers_by_itself(
    docker_engine: docker.DockerClient,
    warm_data: Path,
    interpreters: dict[str, Interpreter],
    wheels: Path,
    offline: Callable[[], dict[str, str]],
    tmp_path: Path,
) -> None:
    wheel(wheels, "greeter", {"greeter.py": b"NAME = 'world'\n"})
    make(warm_data, interpreters, offline(), {"app.py": CODE, "requirements.txt": "greeter\n"}, timeout_s=1)
    archive = tmp_path / "greet.tar"
    done = export(warm_data, "greet:1", str(archive))
    assert done.returncode == 0, done.stderr
    with running(docker_engine, archive) as port:
        status, headers, body = ask(port, "GET", "/hello?a=1&a=2")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == {
            "who": "world",
            "function": "greet",
            "user": 65534,
            "env": "hello",
            "query": {"a": "1,2"},
            "x": None,
        }
        status, headers, body = ask(port, "POST", "/raw", b"{}")
        assert (status, headers["x-a"], headers["set-cookie"], body) == (201, "b", "c=1", b"made")
        status, _, body = ask(port, "POST", "/2015-03-31/functions/function/invocations", b'{"x": 7}')
        assert (status, json.loads(body)["x"]) == (200, 7)
        status, _, body = ask(port, "GET", "/boom")
        error = json.loads(body)
        assert (status, error["errorType"], error["errorMessage"]) == (502, "ValueError", "boom")
        assert [line for line in error["stackTrace"] if "/var/runtime" in line] == []
        assert "raise ValueError" in "".join(error["stackTrace"])
        status, _, body = ask(port, "POST", "/x", b"x" * (6 * 1024 * 1024 + 1))
        assert status == 413
        status, _, body = ask(port, "GET", "/slow")
        assert status == 504
        assert "Task timed out after 1.00 seconds" in json.loads(body)["errorMessage"]
