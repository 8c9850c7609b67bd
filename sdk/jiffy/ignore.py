"""Which files of a folder belong to its functions: all that .gitignore and .jiffyignore don't name.

As in git: a file's rules hold for its folder and below, a deeper file beats a higher one, a later rule an earlier one.
.jiffyignore comes after .gitignore, so `!model.bin` in it deploys what git leaves out. Rules of the git repository
around the folder hold too: a secret that git ignores does not leave the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pathspec

from .contract.errors import SpecError

ALWAYS_OUT = frozenset({".git", "__pycache__", ".venv", "node_modules", ".jiffy"})
DEPLOY_ONLY = frozenset({"jiffy.toml", ".gitignore", ".jiffyignore"})  # not the function's: an edit makes no revision
UNLESS_SAID = pathspec.GitIgnoreSpec.from_lines([".env"])  # holds secrets; `!.env` in .jiffyignore deploys it
IMAGE_MARK = "oci-layout"  # the file that every OCI image layout holds
RULE_FILES = (".gitignore", ".jiffyignore")


class Rules(NamedTuple):
    """What one folder's rule files say about what lies below it."""

    folder: str  # absolute
    spec: pathspec.GitIgnoreSpec

    def verdict(self, path: str) -> bool | None:
        """Is `path` (absolute; a folder's ends in "/") ignored? None: these rules don't say."""
        return self.spec.check_file(path[len(self.folder) + 1 :]).include


def walk(folder: Path) -> Iterator[str]:
    """The names of all files and links that belong, relative, sorted. Raises SpecError for unreadable folders."""
    root = os.path.realpath(folder)
    yield from _walk(root, root, (Rules(root, UNLESS_SAID), *_around(root)))


def _walk(root: str, folder: str, above: tuple[Rules, ...]) -> Iterator[str]:
    rules = (*above, *_rules(folder))
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as exc:
        raise SpecError(f"can't read {folder}: {exc.strerror}") from exc
    for entry in entries:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_OUT or (folder == root and entry.name in DEPLOY_ONLY):
            continue
        verdict = _verdict(entry.path + ("/" if is_folder else ""), rules)
        if verdict or (verdict is None and _is_image(entry)):
            continue
        if is_folder:
            yield from _walk(root, entry.path, rules)
        else:
            yield os.path.relpath(entry.path, root)


def _verdict(path: str, rules: tuple[Rules, ...]) -> bool | None:
    """Is `path` ignored? None: no rule says."""
    for one in reversed(rules):
        verdict = one.verdict(path)
        if verdict is not None:
            return verdict
    return None


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Is it an OCI archive or layout, such as `jiffy build` writes? An image of the function is no part of it."""
    if entry.is_dir(follow_symlinks=False):
        return Path(entry.path, IMAGE_MARK).is_file()
    if not entry.is_file(follow_symlinks=False):
        return False
    mark = f"{IMAGE_MARK}\0".encode()  # the name of its first member
    try:
        with Path(entry.path).open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False  # who packs it says what is wrong


def _around(root: str) -> tuple[Rules, ...]:
    """The rules of the repository that the folder lies in; none where that repository ignores the folder itself."""
    way = [Path(root), *Path(root).parents]  # upwards
    depth = next((n for n, parent in enumerate(way) if (parent / ".git").exists()), 0)
    rules = tuple(rule for parent in reversed(way[1 : depth + 1]) for rule in _rules(str(parent)))
    return () if any(_verdict(f"{step}/", rules) for step in way[:depth]) else rules


def _rules(folder: str) -> tuple[Rules, ...]:
    lines: list[str] = []
    for name in RULE_FILES:
        try:
            lines += Path(folder, name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as exc:
            raise SpecError(f"can't read {folder}/{name}: {exc}") from exc
    if not lines:
        return ()
    try:
        return (Rules(folder, pathspec.GitIgnoreSpec.from_lines(lines)),)
    except ValueError as exc:
        raise SpecError(f"{folder}: a rule in {' or '.join(RULE_FILES)} can't be read: {exc}") from exc
