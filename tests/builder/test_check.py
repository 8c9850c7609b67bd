"""A handler that can't work fails the build, with file, line and reason; and nothing of it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.processes import Processes
from builder.runtimes.python.check import check, missing
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract.errors import BuildFailed

OK = "def handler(event, context): ...\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    code = folder / "code"
    for name, text in files.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(text)
    return code


GOOD = {
    "function": ({"m.py": OK}, "m:handler"),
    "async": ({"m.py": "async def handler(event, context): ...\n"}, "m:handler"),
    "package": ({"p/__init__.py": OK}, "p:handler"),
    "module of a package": ({"p/q.py": OK}, "p.q:handler"),
    "assigned": ({"m.py": "class App: ...\nhandler = App()\n"}, "m:handler"),
    "imported": ({"m.py": "from other import handler\n"}, "m:handler"),
    "in a branch": ({"m.py": "if True:\n    handler = print\n"}, "m:handler"),
    "star": ({"m.py": "from other import *\n"}, "m:handler"),
    "getattr": ({"m.py": "def __getattr__(name): return print\n"}, "m:handler"),
    "globals": ({"m.py": "globals()['handler'] = print\n"}, "m:handler"),
    "bad neighbour": ({"m.py": OK, "template.py": "{{ not python }}"}, "m:handler"),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_plausible_handler_passes(case: str, tmp_path: Path, python: Interpreter) -> None:
    files, handler = GOOD[case]
    check(write(tmp_path, files), handler, python, Processes())


def test_imports_that_are_nowhere_are_told(tmp_path: Path, python: Interpreter) -> None:
    head = "from __future__ import annotations\nimport os.path, requests.sessions\nfrom yaml import load\n"
    head += "from . import sibling\nimport mine, own.part, native, installed\n"
    maybe = "try:\n    import ujson\nexcept ImportError: ...\nif 0:\n    import never\ndef f():\n    import later\n"
    code = write(tmp_path, {"m.py": head + maybe + OK, "mine.py": "", "own/part.py": ""})
    (code / "native.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    deps = write(tmp_path / "deps", {"installed/__init__.py": ""})
    imports = check(code, "m:handler", python, Processes())
    assert imports == ("installed", "mine", "native", "own", "requests", "yaml")
    assert missing(imports, [code, deps]) == ("requests", "yaml")


BAD = {
    "no module": ({"other.py": OK}, r"module 'm' is not there: neither m\.py nor m/__init__\.py; .* are other\.py"),
    "no attribute": ({"m.py": "def handlr(e, c): ...\n"}, r"m\.py has no 'handler'.*did you mean 'handlr'\?"),
    "syntax": ({"m.py": OK + "\nx = (\n"}, r"m\.py, line 3: SyntaxError: '\(' was never closed"),
    "indentation": ({"m.py": "if 1:\npass\n"}, r"m\.py, line 2: IndentationError"),
    "encoding": ({"m.py": "# coding: nope\n"}, r"m\.py.*unknown encoding"),
    "null bytes": ({"m.py": "x = 1\0\n"}, r"m\.py.*null bytes"),
    "too deep": ({"m.py": "x = " + "-" * 500_000 + "1\n"}, r"m\.py"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_handler_fails_with_its_place(case: str, tmp_path: Path, python: Interpreter) -> None:
    files, told = BAD[case]
    with pytest.raises(BuildFailed, match=told):
        check(write(tmp_path, files), "m:handler", python, Processes())


def test_a_broken_parent_package_is_named(tmp_path: Path, python: Interpreter) -> None:
    code = write(tmp_path, {"p/__init__.py": "x = (\n", "p/q.py": OK})
    with pytest.raises(BuildFailed, match=r"p/__init__\.py, line 1"):
        check(code, "p.q:handler", python, Processes())


def test_code_is_compiled_and_never_run(tmp_path: Path, python: Interpreter) -> None:
    witness = tmp_path / "ran"
    code = write(tmp_path, {"m.py": f"open({str(witness)!r}, 'w')\n{OK}"})
    check(code, "m:handler", python, Processes())
    assert not witness.exists()
    assert (code / f"__pycache__/m.{python.cache_tag}.pyc").is_file()
