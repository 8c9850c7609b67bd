"""`jiffy image`: what is inside, what brought it in, and the bill of materials."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.build import Builder
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract.messages import BuildRequest
from tests.builder.archives import digest, pack, wheel

CODE = {"app.py": "def handler(event, context): ...\n", "requirements.txt": "greeter\n", "big.bin": "x" * 400_000}


@pytest.fixture
def made(
    warm_data: Path, interpreters: dict[str, Interpreter], wheels: Path, offline: Callable[[], dict[str, str]]
) -> Path:
    """A data folder with one function, revision 4."""
    wheel(wheels, "greeter", {"greeter/__init__.py": b"NAME = 1\n", "greeter/data.bin": bytes(3_000_000)})
    archive = pack(CODE)
    request = BuildRequest("b", "default", "greet", {"handler": "app:handler"}, digest(archive), 0)
    builder = Builder(warm_data, interpreters, offline(), Processes())
    builder.name("default/greet:4", builder.make(request, archive, lambda step: None).image)
    return warm_data


def jiffy(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jiffy.cli.main", "image", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_it_says_what_is_inside_and_why(made: Path) -> None:
    done = jiffy(made, "greet", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["function"], found["revision"]) == ("greet", 4)
    assert [layer["kind"] for layer in found["layers"]] == ["base", "deps", "code"]
    assert found["size_bytes"] == sum(layer["size_bytes"] for layer in found["layers"])
    assert found["user_share"] == found["layers"][2]["size_bytes"] / found["size_bytes"]
    why = {file["path"]: file["brought_by"] for file in found["largest"]}
    assert len(why) == 20
    assert why["/opt/python/greeter/data.bin"] == "greeter"
    assert why["/var/task/big.bin"] == "your code"
    linked = {Path(path).name.partition(".")[0]: text for path, text in why.items() if ".so" in path}
    assert linked["libcrypto"].startswith("linked by _hashlib")
    assert linked["unicodedata"] == "extension module unicodedata"
    assert [p for p in why if p.endswith("library.zip") and why[p] == "standard library"]
    (package,) = found["packages"]
    assert (package["name"], package["version"]) == ("greeter", "1.0")
    assert package["bytes"] > 3_000_000


def test_people_get_tables(made: Path) -> None:
    text = jiffy(made, "greet:4").stdout
    for part in ("greet, revision 4", "your own code is", "LARGEST FILES", "greeter", "BROUGHT BY"):
        assert part in text


def test_the_bill_of_materials_is_the_same_every_time(made: Path) -> None:
    first, second = jiffy(made, "greet", "--sbom").stdout, jiffy(made, "greet", "--sbom").stdout
    assert first == second
    document = json.loads(first)
    assert document["bomFormat"] == "CycloneDX"
    assert "pkg:pypi/greeter@1.0" in [one.get("purl") for one in document["components"]]
    assert document["metadata"]["component"]["name"] == "greet"


def test_what_is_not_there_is_one_line(made: Path) -> None:
    for asked, told in {
        "nobody": "no image of function 'nobody'",
        "greet:x": "'x' is no revision",
        "greet:9": "9",
    }.items():
        done = jiffy(made, asked)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert told in done.stderr
