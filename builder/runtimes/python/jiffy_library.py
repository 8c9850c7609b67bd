"""Finds the standard library's modules that lie in library.zip, beside this file, without reading each one twice.

The end of the image's encodings/__init__ imports this, so it is part of every start of the interpreter and does next
to nothing: the archive is opened when a module is not found elsewhere first. zipimport's own search inflates and
unmarshals a module to learn its file's name, and once more to run it: that costs 10 ms of an `import asyncio`.
"""

import sys
import zipimport
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HERE = __file__.rpartition("/")[0]
ARCHIVE = HERE + "/library.zip"
DIRECTORIES = zipimport._zip_directory_cache  # type: ignore[attr-defined]  # archive → the files in it, since 3.3


class Library(zipimport.zipimporter):
    """The archive, or one folder of it, as an entry of sys.path or of a package's path."""

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        inside = self.prefix + fullname.rpartition(".")[2]
        files = DIRECTORIES.get(ARCHIVE, ())
        for ending in (".pyc", "/__init__.pyc"):
            if inside + ending in files:
                loader: Any = self
                spec = ModuleSpec(fullname, loader, origin=f"{ARCHIVE}/{inside}{ending}", is_package=ending[0] == "/")
                spec.has_location = True
                if spec.submodule_search_locations is not None:
                    spec.submodule_search_locations.append(f"{ARCHIVE}/{inside}")
                return spec
        return None


def hook(path: str) -> Library:
    if path == ARCHIVE or path.startswith(ARCHIVE + "/"):
        return Library(path)
    raise ImportError(path)


class Beside:
    """Asked after all others: for what the archive holds of a package that itself lies beside it."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        for folder in path if isinstance(path, list) else ():
            if folder.startswith(HERE + "/") and not folder.startswith(ARCHIVE):
                return Library(ARCHIVE + folder[len(HERE) :]).find_spec(fullname)
        return None


class LeftOut:
    """The last finder that is asked, in a slim image: names what was left out of it, and how to keep it."""

    names: "frozenset[str] | None" = None

    @classmethod
    def find_spec(cls, fullname: str, path: object = None, target: object = None) -> None:
        if cls.names is None:
            with open(ARCHIVE.replace("library.zip", "left-out.txt"), encoding="ascii") as file:
                cls.names = frozenset(file.read().split("\n"))
        if fullname in cls.names:
            keep = f'add keep = ["{fullname}"] to the function in jiffy.toml'
            message = f"No module named '{fullname}': slim = true left it out of this image; {keep}"
            raise ModuleNotFoundError(message, name=fullname)


def tell_what_is_left_out() -> None:
    sys.meta_path.append(LeftOut)


def install() -> None:
    sys.path_hooks.insert(0, hook)
    sys.path.append(ARCHIVE)
    sys.meta_path.append(Beside)
    sys.modules["encodings"].__path__.append(f"{ARCHIVE}/encodings")


if __name__ == "jiffy_library":
    install()
