"""What is inside an image and why: layers, the largest files and what brought each in, packages, the user's share.

Reads the unpacked layers in the data folder; nothing was written down when they were made, so it can't be out of date.
sbom.py says the packages in CycloneDX's words.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from functools import lru_cache
from pathlib import Path

from builder import elf, image
from builder.layers import LayerStore
from jiffy.contract import layout
from jiffy.contract.errors import NotFound

LARGEST = 20
MODULES = "node_modules"
# Parts of the base layer, by the first that fits.
_PARTS = (
    (re.compile(r"/usr/local/lib\w*/python3\.\d+/lib-dynload/([^.]+)"), r"extension module \1"),
    (re.compile(r"/usr/local/lib\w*/python3\.\d+/.*"), "standard library"),
    (re.compile(r"/usr/local/bin/node"), "Node.js with its library"),
    (re.compile(r"/usr/local/bin/.*"), "interpreter"),
    (re.compile(r"/usr/share/nodejs/.*"), "Node.js with its library"),
    (re.compile(r"/usr/share/zoneinfo/.*"), "time zones"),
    (re.compile(r"/etc/.*(?:cert|ssl|pki).*"), "certificates"),
    (re.compile(rf"{layout.RUNTIME_DIR}/.*"), "Jiffy's agent"),
    (re.compile(r".*/ld-[^/]*\.so[^/]*"), "dynamic loader"),
)


@dataclass(frozen=True, slots=True)
class File:
    path: str  # in the image
    bytes: int
    layer: str  # its kind
    brought_by: str  # for people: a package, a part of the base, who links it


@dataclass(frozen=True, slots=True)
class Part:
    """One layer."""

    kind: str
    digest: str
    size_bytes: int
    compressed_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    license: str
    bytes: int
    registry: str = "pypi"  # as package URLs have it: or "npm"


@dataclass(frozen=True, slots=True)
class Inventory:
    image: str
    runtime: str
    size_bytes: int
    compressed_bytes: int
    user_share: float  # of the unpacked bytes: the function's own code
    layers: tuple[Part, ...]
    largest: tuple[File, ...]
    packages: tuple[Package, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def take(data: Path, digest: str) -> Inventory:
    """The inventory of the image `digest`. Raises NotFound when a part of it is not in the data folder."""
    store = LayerStore(data)
    config = image.document(data, image.document(data, digest)["config"]["digest"])
    parts, files, installed = [], list[File](), list[Package]()
    runtime = str(config["config"]["Labels"].get("jiffy.runtime", ""))
    places = {"deps": layout.deps_dir(runtime), "code": layout.TASK_DIR}
    for diff_id in config["rootfs"]["diff_ids"]:
        stored = store.get(diff_id)
        if stored is None:
            raise NotFound(f"{data} no longer has the layer {diff_id} of this image")
        kind, tree = stored.layer.kind, layout.layer_tree(data, diff_id)
        found = list(_files(tree))
        owners = (_npm_owners(found) if (tree / MODULES).is_dir() else _owners(tree)) if kind == "deps" else {}
        why = _Why(kind, tree, owners, found)
        files += [File(f"{places.get(kind, '')}/{name}", size, kind, why.of(name)) for name, size in found]
        installed += packages(tree) if kind == "deps" else ()
        size = sum(size for _, size in found)
        parts.append(Part(kind, diff_id, size, stored.blob_bytes, len(found)))
    total = sum(part.size_bytes for part in parts)
    own = sum(part.size_bytes for part in parts if part.kind == "code")
    return Inventory(
        image=digest,
        runtime=runtime,
        size_bytes=total,
        compressed_bytes=sum(part.compressed_bytes for part in parts),
        user_share=own / total if total else 0.0,
        layers=tuple(parts),
        largest=tuple(sorted(files, key=lambda file: (-file.bytes, file.path))[:LARGEST]),
        packages=tuple(installed),
    )


@lru_cache(maxsize=64)  # a layer never changes: a change of code alone does not read it again
def packages(tree: Path) -> tuple[Package, ...]:
    """What is installed in a dependency layer."""
    sizes = dict(_files(tree))
    of_npm = _npm_packages(tree, sizes) if (tree / MODULES).is_dir() else []
    return (*of_npm, *_packages(tree, sizes, _owners(tree)))


def _files(tree: Path) -> Iterator[tuple[str, int]]:
    for folder, dirs, names in os.walk(tree):
        dirs.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if not path.is_symlink():
                yield path.relative_to(tree).as_posix(), path.stat().st_size


class _Why:
    """Says what brought a file of one layer in."""

    def __init__(self, kind: str, tree: Path, owners: dict[str, str], files: Iterable[tuple[str, int]]) -> None:
        self._kind, self._owners = kind, owners
        self._users: dict[str, list[str]] = {}
        for name, _ in files if kind != "code" else ():
            found = elf.read(tree / name) if ".so" in name or "/bin/" in name else None
            for library in found.needed if found else ():
                self._users.setdefault(library, []).append(Path(name).name.partition(".")[0])

    def of(self, name: str) -> str:
        if self._kind == "code":
            return "your code"
        if name in self._owners:
            return self._owners[name]
        users = sorted(set(self._users.get(Path(name).name, ())))
        if users:
            return f"linked by {', '.join(users[:3])}{f' and {len(users) - 3} more' if len(users) > 3 else ''}"
        part = next((m.expand(text) for pattern, text in _PARTS if (m := pattern.match(f"/{name}"))), None)
        return part or ("loaded by name" if ".so" in name else "system")


def _owners(tree: Path) -> dict[str, str]:
    """File → the package that installed it, compiled files included."""
    owners = {}
    for record in sorted(tree.glob("*.dist-info/RECORD")):
        package = record.parent.name.partition("-")[0]
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                owners[row[0]] = package
                folder, slash, module = row[0].rpartition("/")
                if module.endswith(".py"):
                    for compiled in tree.glob(f"{folder}{slash}__pycache__/{module[:-3]}.*.pyc"):
                        owners[compiled.relative_to(tree).as_posix()] = package
    return owners


def _packages(tree: Path, sizes: dict[str, int], owners: dict[str, str]) -> list[Package]:
    totals: dict[str, int] = {}
    for name, owner in owners.items():
        totals[owner] = totals.get(owner, 0) + sizes.get(name, 0)
    found = []
    for metadata in sorted(tree.glob("*.dist-info/METADATA")):
        with metadata.open(encoding="utf-8", errors="replace") as file:
            head = HeaderParser().parse(file, headersonly=True)
        license_text = str(head.get("License-Expression") or head.get("License") or "").strip().partition("\n")[0]
        size = totals.get(metadata.parent.name.partition("-")[0], 0)
        found.append(Package(str(head["Name"]), str(head["Version"]), license_text[:100], size))
    return found


# --- npm's ------------------------------------------------------------------------------------------------------


def _npm_owners(files: Iterable[tuple[str, int]]) -> dict[str, str]:
    """File → the package in whose folder it lies."""
    return {name: owner for name, _ in files if (owner := _npm_package(name)[1])}


def _npm_package(path: str) -> tuple[str, str]:
    """The folder of the innermost package that holds a file, and its name: "a", "@scope/a"."""
    above, _, rest = f"/{path}".rpartition(f"/{MODULES}/")
    parts = rest.split("/")
    name = "/".join(parts[: 2 if rest.startswith("@") else 1])
    return (f"{above}/{MODULES}/{name}".lstrip("/"), name) if len(parts) > name.count("/") + 1 else ("", "")


def _npm_packages(tree: Path, sizes: dict[str, int]) -> list[Package]:
    totals: dict[str, int] = {}
    for name, size in sizes.items():
        folder, _ = _npm_package(name)
        totals[folder] = totals.get(folder, 0) + size
    found = []
    for folder in sorted(filter(None, totals)):
        try:
            manifest = json.loads((tree / folder / "package.json").read_text(encoding="utf-8", errors="replace"))
            name, version = str(manifest["name"]), str(manifest["version"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # a folder among packages that is none
        found.append(Package(name, version, str(manifest.get("license") or "")[:100], totals[folder], "npm"))
    return found
