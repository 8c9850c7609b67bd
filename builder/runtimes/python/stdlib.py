"""The standard library as an image holds it: what is left out, what lies there as .pyc files, and what in library.zip.

Modules that every start needs lie as plain files, the rest is zipped: a third of the size, and 8 to 25 ms less at every
start than if all were. jiffy_library.py finds what is in the archive. Compiling is bytecode.py's business.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from .interpreter import Interpreter

ARCHIVE = "library.zip"
LEFT_OUT = "left-out.txt"  # beside it, in a slim image
FINDER = "jiffy_library.py"
# What needs a terminal, a screen, a compiler, a package host, another system or the host's password file, or is the
# library's own tests and documentation.
_LEFT_OUT_DIRS = {"__pycache__", "test", "tests", "site-packages", "dist-packages", "lib-dynload", "ensurepip"}
_LEFT_OUT_DIRS |= {"lib2to3", "idlelib", "tkinter", "turtledemo", "pydoc_data", "__phello__", "curses", "venv"}
_LEFT_OUT_DIRS |= {"msilib", "macholib", "command", "_pyrepl"}  # distutils/command builds and uploads packages
_LEFT_OUT_FILES = {"turtle.py", "sitecustomize.py", "usercustomize.py", "__hello__.py", "__phello__.foo.py"}
_LEFT_OUT_FILES |= {"_pyio.py", "_pydecimal.py", "_pydatetime.py"}  # twins of what the interpreter has in C
_LEFT_OUT_FILES |= {"windows_events.py", "windows_utils.py", "proactor_events.py", "popen_spawn_win32.py", "mbcs.py"}
_LEFT_OUT_FILES |= {"oem.py", "_aix_support.py", "_osx_support.py", "_ios_support.py", "_android_support.py"}
_LEFT_OUT_FILES |= {"msvc9compiler.py", "_msvccompiler.py", "msvccompiler.py", "bcppcompiler.py", "cygwinccompiler.py"}
_LEFT_OUT_FILES |= {"crypt.py", "antigravity.py", "_bootsubprocess.py"}
_LEFT_OUT_ENDINGS = (".pyc", ".exe", ".so", ".a", ".txt", ".rst", ".bat")
# Extension modules, by the beginnings of their names. The hashes are twins of OpenSSL's, which hashlib takes.
_LEFT_OUT_EXTENSIONS: tuple[str, ...] = ("_test", "_ctypes_test", "_xxtest", "xxlimited", "_xxinterp", "_tkinter")
_LEFT_OUT_EXTENSIONS += ("readline", "_curses", "_dbm", "_gdbm", "nis", "ossaudiodev", "_crypt", "spwd", "_xxsub")
_TWINS_OF_OPENSSL = ("_md5.", "_sha1.", "_sha256.", "_sha3.")
# What the agent has loaded by the time it says that it is a stem (a test holds this list to the truth), and what an
# instance loads where there are no control groups.
_AT_START = "__future__, ctypes, gc, json, os, select, signal, socket, struct, sys, time, traceback"
_AT_START += ", encodings.ascii, encodings.latin_1"
_PROBE = f"""
import {_AT_START}, _imp, json, sys
files = [getattr(m, "__file__", None) or "" for m in list(sys.modules.values())]
print(json.dumps([files, _imp._frozen_module_names()]))
"""
_HOOK = b"\nimport jiffy_library as _jiffy_library\n"
_TELLING = b"_jiffy_library.tell_what_is_left_out()\n"
START = ("os", "encodings", "encodings.utf_8", "encodings.aliases")  # without these no interpreter starts


def sources(stdlib: Path) -> Iterator[Path]:
    """The standard library's files, less what a function has no use for."""
    for folder, dirs, names in os.walk(stdlib):
        dirs[:] = sorted(d for d in dirs if d not in _LEFT_OUT_DIRS and not d.startswith("config-"))
        for name in sorted(names):
            if name not in _LEFT_OUT_FILES and not name.endswith(_LEFT_OUT_ENDINGS):
                yield Path(folder, name)


def extensions(python: Interpreter) -> Iterator[Path]:
    """The extension modules, less the same."""
    found = sorted(python.dynload.glob("*.so"))
    twins = _TWINS_OF_OPENSSL if any(path.name.startswith("_hashlib.") for path in found) else ()
    yield from (path for path in found if not path.name.startswith((*_LEFT_OUT_EXTENSIONS, *twins)))


def module(relative: str) -> str:
    """The dotted name of a file of the standard library, or of an extension module."""
    name = relative.removeprefix("lib-dynload/")
    name = name.partition(".")[0] if name.endswith(".so") else name.removesuffix(".py").removesuffix("/__init__")
    return name.replace("/", ".")


def names(python: Interpreter) -> set[str]:
    """Every module that a full image has beside those in the executable itself."""
    files = [path.relative_to(python.stdlib).as_posix() for path in sources(python.stdlib)]
    return {module(name) for name in files if name.endswith(".py")} | {module(p.name) for p in extensions(python)}


def hook(library: Path, left_out: Iterable[str] = ()) -> None:
    """Let the sources in `library`, not compiled yet, find what will be in the archive, and say what is left out."""
    shutil.copyfile(Path(__file__).with_name(FINDER), library / FINDER)
    listed = sorted(left_out)
    with (library / "encodings/__init__.py").open("ab") as file:
        file.write(_HOOK + _TELLING if listed else _HOOK)
    if listed:
        (library / LEFT_OUT).write_text("\n".join(listed))


def pack(library: Path, python: Interpreter) -> None:
    """Move compiled modules of `library` into its archive, but for those of every start."""
    plain, frozen = _start(python)
    modules = sorted(path for path in library.rglob("*.pyc") if "lib-dynload" not in path.parts)
    with zipfile.ZipFile(library / ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in modules:
            name = path.relative_to(library).as_posix()
            if name == "os.pyc" or (name in plain and name not in frozen) or name == f"{FINDER}c":
                continue  # os is frozen, but its file tells the interpreter where the library is
            if name not in frozen:
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
            path.unlink()
    for folder in sorted((p for p in library.rglob("*") if p.is_dir()), reverse=True):
        if folder.name != "lib-dynload" and not any(folder.iterdir()):
            folder.rmdir()


def _start(python: Interpreter) -> tuple[set[str], set[str]]:
    """Files of modules that every start loads, and of modules that the executable itself holds; as .pyc, relative."""
    done = subprocess.run(
        [str(python.executable), "-I", "-S", "-c", _PROBE], capture_output=True, check=True, timeout=30, env={}
    )
    files, frozen = json.loads(done.stdout)
    below = f"{python.stdlib}/"
    plain = {f"{file.removeprefix(below)}c" for file in files if file.startswith(below) and file.endswith(".py")}
    paths = [*(name.replace(".", "/") for name in frozen), "importlib/_bootstrap", "importlib/_bootstrap_external"]
    return plain, {f"{path}{ending}" for path in paths for ending in (".pyc", "/__init__.pyc")}
