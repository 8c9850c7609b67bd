"""What is left out of packages: each rule, what it must not take, and real packages that import as before."""

from __future__ import annotations

import csv
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import deps, elf, pruning
from builder.layers import StoredLayer
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout
from tests.builder.archives import wheel

Installer = Callable[..., Path]


@pytest.fixture
def install(
    tmp_path: Path, based: tuple[Path, StoredLayer], python: Interpreter, offline: Callable[[], dict[str, str]]
) -> Installer:
    said: list[str] = []

    def run(*lines: str, whole: tuple[str, ...] = ()) -> Path:
        into = tmp_path / f"installed-{len(list(tmp_path.iterdir()))}" / "deps"
        into.parent.mkdir()
        base = layout.layer_tree(based[0], based[1].layer.digest)
        where = {"python": python, "cache": tmp_path / "cache", "base": base}
        deps.install(lines, into, say=said.append, environ=offline(), processes=Processes(), whole=whole, **where)  # type: ignore[arg-type]
        (into / "said.txt").write_text("\n".join(said))
        return into

    return run


def names(folder: Path) -> set[str]:
    return {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() and "__pycache__" not in p.parts
    }


MUCH = {
    "much/__init__.py": b"",
    "much/core.pyi": b"x: int\n" * 400,
    "much/py.typed": b"",
    "much/tests/test_core.py": b"assert False\n",
    "much/tests/data.bin": bytes(9000),
    "much/conftest.py": b"",
    "much/core.c": b"int main;",
    "much/include/core.h": b"int x;",
    "much/libcore.a": b"!<arch>",
    "much/launcher.exe": b"MZ",
    "much/README.md": b"# much",
    "much/template.txt": b"kept",
    "much-1.0.dist-info/licenses/LICENSE.txt": b"free",
}


def test_each_rule_takes_its_files_and_record_stays_true(install: Installer, wheels: Path) -> None:
    wheel(wheels, "much", MUCH)
    folder = install("much")
    kept = {"much/__init__.py", "much/py.typed", "much/template.txt"}
    assert {name for name in names(folder) if name.startswith("much/")} == kept
    assert (folder / "much-1.0.dist-info/licenses/LICENSE.txt").is_file()
    with (folder / "much-1.0.dist-info/RECORD").open(newline="") as file:
        listed = {row[0] for row in csv.reader(file)}
    assert kept < listed
    assert all((folder / name).exists() for name in listed)
    (told,) = [line for line in (folder / "said.txt").read_text().splitlines() if line.startswith("left out")]
    assert re.search(r"nothing uses: tests 9 KiB, stubs 3 KiB$", told)


def test_a_package_can_be_left_whole(install: Installer, wheels: Path) -> None:
    wheel(wheels, "much", MUCH)
    assert {name for name in names(install("much", whole=("Much",))) if name.startswith("much")} > set(MUCH)


def test_what_code_needs_stays(install: Installer, wheels: Path) -> None:
    lazy = {
        "lazy/__init__.py": b"import lazy_loader\nlazy_loader.attach_stub(__name__, __file__)\n",
        "lazy/__init__.pyi": b"from . import x\n",
        "lazy/about.py": b"TEXT = open('README.md')\n",
        "lazy/README.md": b"# read",
        "lazy/CHANGES.rst": b"not read",
    }
    wheel(wheels, "lazy", lazy)
    wheel(wheels, "own", {"own/__init__.py": b"from .tests import helper\n", "own/tests/__init__.py": b""})
    wheel(wheels, "lender", {"lender/__init__.py": b"", "lender/tests/__init__.py": b"", "lender/tests/tool.py": b""})
    wheel(wheels, "user", {"user.py": b"def f():\n    from lender.tests.tool import x\n"})
    found = names(install("lazy", "own", "lender", "user"))
    assert {"lazy/__init__.pyi", "lazy/README.md", "own/tests/__init__.py", "lender/tests/tool.py"} < found
    assert "lazy/CHANGES.rst" not in found


def test_equal_shared_objects_are_linked_and_load(install: Installer, wheels: Path, python: Interpreter) -> None:
    module = next(path for path in sorted(python.dynload.glob("math.*.so")))
    for name in ("one", "other"):
        wheel(wheels, name, {f"{name}/__init__.py": b"", f"{name}/{module.name}": module.read_bytes()})
    folder = install("one", "other")
    first, second = folder / "one" / module.name, folder / "other" / module.name
    assert (first.is_symlink(), second.is_symlink()) == (False, True)
    assert second.resolve() == first.resolve()
    assert first.stat().st_size < module.stat().st_size
    program = "from one import math; from other.math import sqrt; print(sqrt(49))"
    command = [str(python.executable), "-c", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert done.stdout == "7.0\n", done.stderr


REAL = ("pillow", "sqlalchemy", "hypothesis", "uvloop", "charset-normalizer", "hiredis", "uuid-utils", "rich")


def test_real_packages_import_as_before(tmp_path: Path) -> None:
    """Those that this environment has: copied as their wheels laid them out, pruned, and imported module by module."""
    for name in REAL:
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = tmp_path / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    before = imported(tmp_path)
    assert len(before) > 300
    saved = pruning.prune(tmp_path, ())
    assert saved["symbols"].bytes > 0
    assert saved["stubs"].files > 0
    assert imported(tmp_path) == before
    assert all(elf.trimmed(p.read_bytes()) == p.read_bytes() for p in tmp_path.rglob("*.so"))


PROGRAM = """
import importlib, io, json, os, pkgutil, sys, warnings
root, out, sys.stdout = sys.argv[1], sys.stdout, io.StringIO()
sys.path.insert(0, root)
warnings.simplefilter("ignore")
found = []
for module in list(pkgutil.walk_packages([root], onerror=lambda name: None)):
    if "tests" not in module.name.split(".") and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
            found.append(module.name)
        except BaseException:
            pass
out.write(json.dumps(found))
out.flush()
os._exit(0)
"""


def imported(folder: Path) -> str:
    command = [sys.executable, "-S", "-I", "-B", "-c", PROGRAM, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


def test_the_rules_stand_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/images.md").read_text()
    for rule in pruning.RULES:
        assert f"| {rule.name} | {rule.meaning} |" in text
