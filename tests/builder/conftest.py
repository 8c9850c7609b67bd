"""An interpreter, and a data folder with its base layer made once for all tests of the builder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.layers import LayerStore, StoredLayer
from builder.processes import Processes
from builder.runtimes.python import base, interpreter
from builder.runtimes.python.interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreters() -> dict[str, Interpreter]:
    return interpreter.find_all()


@pytest.fixture(scope="session")
def python(interpreters: dict[str, Interpreter]) -> Interpreter:
    return interpreter.choose("python3", interpreters)


@pytest.fixture(scope="session")
def based(tmp_path_factory: pytest.TempPathFactory, python: Interpreter) -> tuple[Path, StoredLayer]:
    """A data folder that holds the base layer, and that layer."""
    data = tmp_path_factory.mktemp("based")
    return data, base.ensure_for(LayerStore(data), python, Processes())[0]


@pytest.fixture
def warm_data(based: tuple[Path, StoredLayer], data_dir: Path) -> Path:
    """A data folder of one's own with the base layer in it."""
    shutil.copytree(based[0], data_dir, symlinks=True, dirs_exist_ok=True, copy_function=_link)
    return data_dir


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def offline(wheels: Path) -> Callable[[], dict[str, str]]:
    """The environment of a builder whose only index is `wheels`."""
    return lambda: {"UV_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_FIND_LINKS": str(wheels)}
