"""A revision's lock: the very packages again, whatever the index has meanwhile; refused when it does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build import Builder
from builder.layers import StoredLayer
from builder.lock import Lock, parse
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed
from jiffy.contract.messages import BuildRequest, Revision
from tests.builder.archives import digest, pack, wheel

APP = "def handler(event, context): ...\n"


class Host:
    """A builder with a data folder and a download cache of its own, as on another machine."""

    def __init__(self, data: Path, interpreters: dict[str, Interpreter], environ: dict[str, str]) -> None:
        self.data, self.builder = data, Builder(data, interpreters, environ, Processes())

    def make(self, requirements: str, locked: Lock | None = None) -> Revision:
        archive = pack({"app.py": APP, "requirements.txt": requirements})
        request = BuildRequest("b", "default", "x", {"handler": "app:handler"}, digest(archive), 0)
        return self.builder.make(request, archive, lambda step: None, locked)

    def packages(self, revision: Revision) -> list[str]:
        tree = layout.layer_tree(self.data, revision.layers[1].digest)
        return sorted(path.name.removesuffix(".dist-info") for path in tree.glob("*.dist-info"))


@pytest.fixture
def host(
    based: tuple[Path, StoredLayer],
    interpreters: dict[str, Interpreter],
    offline: Callable[[], dict[str, str]],
    tmp_path: Path,
) -> Callable[[str], Host]:
    def make(name: str) -> Host:
        shutil.copytree(based[0], tmp_path / name, symlinks=True)
        return Host(tmp_path / name, interpreters, offline())

    return make


def test_a_lock_gives_the_same_packages_on_another_host_later(host: Callable[[str], Host], wheels: Path) -> None:
    wheel(wheels, "greeter", {"greeter.py": b"", "greeter-1.0.dist-info/x": b""})
    one = host("one")
    first = one.make("greeter\n")
    lock = one.builder.lock_of(first)
    assert parse(str(lock)) == lock
    assert [line.split()[0] for line in lock.lines] == ["greeter==1.0"]
    assert lock.lines[0].split()[1].startswith("--hash=sha256:")
    wheel(wheels, "greeter", {"greeter.py": b"NEW = 1"}, version="2.0")
    other = host("other")
    assert other.packages(other.make("greeter\n")) == ["greeter-2.0"]
    again = other.make("greeter\n", lock)
    assert other.packages(again) == ["greeter-1.0"]
    assert (again.layers, again.digest, again.image) == (first.layers, first.digest, first.image)


def test_a_lock_of_other_requirements_or_of_other_files_is_refused(host: Callable[[str], Host], wheels: Path) -> None:
    wheel(wheels, "greeter", {"greeter.py": b""})
    one = host("one")
    lock = one.builder.lock_of(one.make("greeter\n"))
    with pytest.raises(BuildFailed, match=r"not those of the revision in service.*without --locked"):
        one.make("greeter>=1\n", lock)
    wheel(wheels, "greeter", {"greeter.py": b"import evil"})
    with pytest.raises(BuildFailed, match=r"(?i)dependencies:.*hash"):
        host("other").make("greeter\n", lock)


def test_without_requirements_there_is_nothing_to_lock(host: Callable[[str], Host]) -> None:
    one = host("one")
    made = one.make("")
    assert one.builder.lock_of(made).lines == ()
    assert one.make("", one.builder.lock_of(made)) == made
