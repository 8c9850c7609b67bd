"""The base layer: complete, minimal, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import elf
from builder.layers import LayerStore, StoredLayer
from builder.processes import Processes
from builder.runtimes.python import base, interpreter
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed
from tests.builder.test_layers import umask


def tree(based: tuple[Path, StoredLayer]) -> Path:
    return layout.layer_tree(based[0], based[1].layer.digest)


def test_it_is_the_same_in_another_folder_with_another_umask_and_locale(
    based: tuple[Path, StoredLayer], python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with umask(0o077):
        again, cached = base.ensure_for(LayerStore(tmp_path / "x" / "data"), python, Processes())
    assert not cached
    assert again == based[1]


def test_it_is_made_once_and_again_when_the_agent_changes(
    based: tuple[Path, StoredLayer], python: Interpreter, warm_data: Path
) -> None:
    store = LayerStore(warm_data)
    assert base.ensure_for(store, python, Processes()) == (based[1], True)
    files = base.runtime_files()
    changed, cached = base.ensure_for(store, python, Processes(), files | {"agent.py": files["agent.py"] + b"# x\n"})
    assert not cached
    assert changed.layer.digest != based[1].layer.digest


def test_every_library_is_where_the_loader_looks(based: tuple[Path, StoredLayer]) -> None:
    root = tree(based)
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and elf.is_elf(p)]
    inside = {p.name: (p,) for p in (*root.glob("lib*/**/*.so*"), *root.glob("usr/lib*/**/*.so*"))}
    assert elf.closure(files, elf.Loader(inside, dirs=())).missing == {}
    (python,) = (root / "usr/local/bin").glob("python3.*")
    found = elf.read(python)
    assert found is not None
    assert (root / found.interpreter.lstrip("/")).is_file()


def test_what_a_function_has_no_use_for_is_left_out(based: tuple[Path, StoredLayer]) -> None:
    root = tree(based)
    names = {p.name for p in root.rglob("*")}
    assert not names & {"idlelib", "tkinter", "ensurepip", "site-packages", "lib2to3", "sh", "pip"}
    assert sorted(p.name for p in (root / "var/runtime").glob("*.py")) == [
        "agent.py",
        "httpevent.py",
        "jiffy_frames.py",
        "jiffy_function.py",
        "jiffy_log.py",
        "jiffy_nursery.py",
        "jiffy_process.py",
        "jiffy_stream.py",
        "serve.py",
    ]
    for folder in ("var/task", "opt/python", "run/jiffy", "proc", "dev", "sys", "tmp"):
        assert list((root / folder).iterdir()) == []
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert all(p.stat().st_mode & 0o004 for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    assert based[1].layer.size_bytes <= 24 * limits.MIB
    assert based[1].blob_bytes <= 10 * limits.MIB


def test_python3_is_the_builder_s_own_and_an_unknown_version_says_what_there_is(
    interpreters: dict[str, Interpreter], python: Interpreter
) -> None:
    assert interpreter.choose(python.runtime, interpreters) is interpreter.choose("python3", interpreters)
    with pytest.raises(BuildFailed, match=r"'python3\.99'.*there is .*python3"):
        interpreter.choose("python3.99", interpreters)
    assert all(found.version >= (3, 11, 0) for found in interpreters.values())
