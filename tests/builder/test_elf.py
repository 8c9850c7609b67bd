"""The loader's rules, on this machine's own files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder import elf
from builder.runtimes.python.interpreter import Interpreter


def test_the_interpreter_s_libraries_are_found(python: Interpreter) -> None:
    found = elf.closure([python.executable], elf.Loader.of_host())
    assert found.missing == {}
    with open("/proc/self/maps") as maps:
        mapped = {os.path.realpath(line.split()[-1]) for line in maps if ".so" in line and "/" in line}
    if Path(sys.executable).resolve() == python.executable:
        assert {os.path.realpath(p) for p in found.found.values() if p.name.startswith("libc.")} <= mapped
    own = elf.read(python.executable)
    assert own is not None
    assert Path(own.interpreter).exists()


def test_what_is_not_there_is_told_with_who_needs_it(python: Interpreter) -> None:
    found = elf.closure([python.executable], elf.Loader({}, dirs=()))
    own = elf.read(python.executable)
    assert own is not None
    assert set(found.missing) | set(found.found) >= set(own.needed)
    assert all(by.exists() for by in found.missing.values())


def test_origin_is_the_folder_of_the_file(python: Interpreter, tmp_path: Path) -> None:
    libc = elf.Loader.of_host().find("libc.so.6", python.executable, _read(python.executable))
    assert libc is not None
    shutil.copy(libc, tmp_path / "libc.so.6")
    by = _read(python.executable)
    for field in ("rpath", "runpath"):
        where = {"rpath": (), "runpath": (), field: ("${ORIGIN}/sub/..",)}
        made = elf.Elf(by.machine, by.bits, "", "", (), where["rpath"], where["runpath"])
        (tmp_path / "sub").mkdir(exist_ok=True)
        found = elf.Loader({}, dirs=()).find("libc.so.6", tmp_path / "x.so", made)
        assert found is not None
        assert found.resolve() == tmp_path / "libc.so.6"


def test_a_library_of_another_machine_is_passed_over(python: Interpreter) -> None:
    own = _read(python.executable)
    other = elf.Elf("EM_SPARC", own.bits, "", "", ("libc.so.6",), (), ())
    assert elf.Loader.of_host().find("libc.so.6", python.executable, other) is None


@pytest.mark.parametrize(
    "content", [b"", b"\x7fEL", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 200, b"#!/bin/sh\n"]
)
def test_what_is_no_elf_file_needs_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(content)
    assert elf.closure([tmp_path / "x.so"], elf.Loader({})) == elf.Closure()


def _read(path: Path) -> elf.Elf:
    found = elf.read(path)
    assert found is not None
    return found


def test_a_trimmed_library_loads_and_says_the_same(python: Interpreter, tmp_path: Path) -> None:
    module = next(path for path in sorted(python.dynload.glob("math.*.so")))
    content = module.read_bytes()
    small = tmp_path / module.name
    small.write_bytes(elf.trimmed(content))
    assert small.stat().st_size < len(content)
    assert elf.trimmed(small.read_bytes()) == small.read_bytes()
    assert elf.read(small) == elf.read(module)
    program = "import math; print(math.__file__, math.factorial(20), math.pi)"
    done = subprocess.run(
        [str(python.executable), "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(small), "2432902008176640000", "3.141592653589793"], done.stderr


def test_trimming_leaves_alone_what_it_does_not_understand(python: Interpreter) -> None:
    content = python.executable.read_bytes()
    for other in (b"", b"#!/bin/sh", content[:64], content[:200], b"\x7fELF\x01\x01" + content[6:]):
        assert elf.trimmed(other) == other
