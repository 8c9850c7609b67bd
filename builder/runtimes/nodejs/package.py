"""What a Node.js function depends on: package.json and package-lock.json, checked. Pure.

Both are hostile. Packages of the registry are allowed and nothing else: a dependency that is a path, a URL or a
repository is refused, in the lock as well, and a lock's own addresses are forgotten, so that every package comes from
the registry that the builder is set to and is what its hash says. Development dependencies are left out. npm.py
installs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jiffy.contract.errors import BuildFailed

MANIFEST, LOCK = "package.json", "package-lock.json"
_MANIFEST_MAX_BYTES = 256 * 1024
_LOCK_MAX_BYTES = 4 * 1024 * 1024
_PACKAGES_MAX = 5000
_KINDS = ("dependencies", "optionalDependencies", "peerDependencies")
_NAME_TEXT = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9_~-][a-z0-9._~-]*"
_NAME = re.compile(_NAME_TEXT, re.IGNORECASE)
# Versions, ranges of them, tags. What begins with a dot or ends as an archive's name, npm takes for a place on disk.
_RANGE = re.compile(r"(?!\s*\.)(?!.*\.(?:tgz|tar|tar\.gz)\s*$)[A-Za-z0-9.*+^~<>=| _-]{0,256}", re.IGNORECASE)
_ALIAS = re.compile(rf"npm:(?P<name>{_NAME_TEXT})(?:@(?P<range>[^@/:]*))?", re.IGNORECASE)
_PLACE = re.compile(rf"node_modules/{_NAME_TEXT}(?:/node_modules/{_NAME_TEXT})*", re.IGNORECASE)
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:[-+][A-Za-z0-9.+-]+)?")
_INTEGRITY = re.compile(r"(?:sha(?:1|256|384|512)-[A-Za-z0-9+/=]+ ?)+")
_ENTRY = (  # what is kept of a package in a lock: all that installing reads
    *(
        "name",
        "version",
        "integrity",
        "dependencies",
        "optionalDependencies",
        "peerDependencies",
        "peerDependenciesMeta",
    ),
    *("optional", "peer", "devOptional", "inBundle", "bundleDependencies", "os", "cpu", "libc", "engines", "license"),
    *("hasInstallScript", "bin"),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a folder asks for."""

    manifest: dict[str, Any]  # package.json, with what installing reads of it
    lock: dict[str, Any] | None  # package-lock.json, likewise

    @property
    def requirements(self) -> tuple[str, ...]:
        """As lock.digest takes them: the text that another text is compared with."""
        return tuple(f"{kind} {json.dumps(self.manifest[kind], sort_keys=True)}" for kind in sorted(self.manifest))


def read(code: Path) -> Wanted | None:
    """What the folder asks for; None when that is nothing. Raises BuildFailed."""
    if not (code / MANIFEST).is_file():
        return None
    document = _parse(code / MANIFEST, _MANIFEST_MAX_BYTES)
    manifest: dict[str, Any] = {}
    for kind in _KINDS:
        found = _table(document, kind, MANIFEST)
        for name, wanted in found.items():
            _check(name, wanted, f"{MANIFEST}, {kind}")
        if found:
            manifest[kind] = found
    if document.get("workspaces"):
        raise BuildFailed(f"{MANIFEST} has workspaces; deploy each function's folder by itself")
    if overrides := _table(document, "overrides", MANIFEST):
        _check_overrides(overrides)
        manifest["overrides"] = overrides
    if "dependencies" not in manifest and "optionalDependencies" not in manifest:
        return None
    lock = code / LOCK
    return Wanted(manifest, parse_lock(_parse(lock, _LOCK_MAX_BYTES), manifest) if lock.is_file() else None)


def _parse(path: Path, most: int) -> dict[str, Any]:
    if path.stat().st_size > most:
        raise BuildFailed(f"{path.name} is larger than {most} bytes")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as exc:
        raise BuildFailed(f"{path.name}: not valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BuildFailed(f"{path.name} must be an object")
    return document


def _table(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = document.get(key) or {}
    if not isinstance(found, dict):
        raise BuildFailed(f"{where}: {key} must be an object")
    return found


def _check(name: str, wanted: object, where: str) -> None:
    """Raises BuildFailed when it is no package of the registry."""
    shown = f"{where}: {name[:100]!r}"
    if not _NAME.fullmatch(name):
        raise BuildFailed(f"{shown} is no package's name")
    alias = _ALIAS.fullmatch(wanted) if isinstance(wanted, str) else None
    versions = (alias["range"] or "") if alias else wanted
    if not isinstance(versions, str) or not _RANGE.fullmatch(versions):
        raise BuildFailed(
            f"{shown} is {str(wanted)[:100]!r}; only packages of the registry are allowed, by version, range or tag: "
            "no path, no URL, no repository"
        )


def _check_overrides(overrides: Mapping[str, Any], depth: int = 0) -> None:
    for name, wanted in overrides.items():
        if isinstance(wanted, dict) and depth < 10:
            _check_overrides(wanted, depth + 1)
        elif not (isinstance(wanted, str) and re.fullmatch(rf"\${_NAME_TEXT}", wanted, re.IGNORECASE)):
            _check("x", wanted, f"{MANIFEST}, overrides: {name[:100]!r}")


def parse_lock(document: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A lock with what installing reads of it, and no address. Raises BuildFailed."""
    if document.get("lockfileVersion") not in (2, 3):
        raise BuildFailed(f"{LOCK} is of another version than 2 and 3: write it anew with npm 7 or later")
    packages = {"": dict(manifest)}
    found = _table(document, "packages", LOCK)
    if len(found) > _PACKAGES_MAX:
        raise BuildFailed(f"{LOCK} has more than {_PACKAGES_MAX} packages")
    for place, entry in found.items():
        if not isinstance(entry, dict):
            raise BuildFailed(f"{LOCK}: {place[:100]!r} must be an object")
        if place == "" or entry.get("dev") is True:
            continue
        packages[place] = _entry(place, entry)
    return {"lockfileVersion": 3, "requires": True, "packages": packages}


def _entry(place: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    shown = f"{LOCK}: {place[:100]!r}"
    if entry.get("link") or not _PLACE.fullmatch(place):
        raise BuildFailed(f"{shown} is a folder of yours; only packages of the registry are allowed")
    version, integrity = entry.get("version"), entry.get("integrity")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise BuildFailed(
            f"{shown} has {str(version)[:100]!r} as its version; only packages of the registry are allowed"
        )
    if not entry.get("inBundle") and not (isinstance(integrity, str) and _INTEGRITY.fullmatch(integrity)):
        raise BuildFailed(f"{shown} has no hash (integrity); only packages of the registry are allowed")
    name = entry.get("name")
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise BuildFailed(f"{shown} has {str(name)[:100]!r} as its name")
    return {key: entry[key] for key in _ENTRY if key in entry}
