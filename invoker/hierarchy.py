"""Where this host's control groups are mounted, which version they are, and what that version calls its files.

What is done with them: cgroups.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

UNLIMITED = 1 << 60  # version 1 writes no limit as the largest number of pages
CONTROLLERS = ("memory", "cpuacct", "cpu", "pids", "freezer")


@dataclass(frozen=True, slots=True)
class Names:
    """What one version calls its files, and how it writes values."""

    limit: tuple[str, ...]  # memory; the second one counts swap, too
    usage: str
    peak: str
    cpu: str
    oom: str
    anonymous: str  # the line of memory.stat
    cached: str  # and that of files' pages which the kernel would give back first, children's included


V1 = Names(
    limit=("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    usage="memory.usage_in_bytes",
    peak="memory.max_usage_in_bytes",
    cpu="cpuacct.usage",
    oom="memory.oom_control",
    anonymous="rss",
    cached="total_inactive_file",
)
V2 = Names(
    limit=("memory.max",),
    usage="memory.current",
    peak="memory.peak",
    cpu="cpu.stat",
    oom="memory.events",
    anonymous="anon",
    cached="inactive_file",
)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where this host's controllers are mounted, and which version they are."""

    version: int
    mounts: dict[str, tuple[Path, str]]  # controller → (mount point, the group that it shows as its root)

    @property
    def names(self) -> Names:
        return V1 if self.version == 1 else V2

    def folders(self, pid: int | str = "self") -> dict[str, Path]:
        """Controller → the group of that process."""
        groups: dict[str, str] = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in controllers.split(",") if self.version == 1 else CONTROLLERS if not controllers else ():
                groups[name] = path
        found = {}
        for name in CONTROLLERS:
            point, root = self.mounts[name]
            path = groups[name]
            if root != "/" and path.startswith(root):
                path = path[len(root) :]
            found[name] = point / path.lstrip("/")
        return found


class Bound(NamedTuple):
    """A memory limit that holds us, and all that we start in groups of our own."""

    limit_bytes: int
    used_bytes: int  # less what the kernel would give back first

    @classmethod
    def read(cls, folder: Path, names: Names) -> Bound | None:
        """The one of this group; None where it has none, or can't be read."""
        try:
            limit = (folder / names.limit[0]).read_text().strip()
            if limit == "max" or int(limit) >= UNLIMITED:
                return None
            used = int((folder / names.usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return cls(int(limit), used - int(stat.get(names.cached, 0)))
        except (OSError, ValueError):
            return None


def memory_bounds() -> list[Bound]:
    """Those of our own group and of all above it that this host shows."""
    return [bound for folder, names in _around_us() if (bound := Bound.read(folder, names)) is not None]


@functools.cache
def _around_us() -> list[tuple[Path, Names]]:
    """Our own memory group and all above it."""
    found = hierarchy()
    if found is None:
        return []
    folder, top = found.folders()["memory"], found.mounts["memory"][0]
    return [(one, found.names) for one in (folder, *folder.parents) if one == top or top in one.parents]


def hierarchy() -> Hierarchy | None:
    """This host's, or None when a controller that we need is not mounted."""
    mounts: dict[str, tuple[Path, str]] = {}
    unified: tuple[Path, str] | None = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind[0] == "cgroup":
            for option in kind[2].split(","):
                mounts.setdefault(option, (Path(fields[4]), fields[3]))
        elif kind[0] == "cgroup2":
            unified = (Path(fields[4]), fields[3])
    if all(name in mounts for name in CONTROLLERS):
        return Hierarchy(1, mounts)
    if unified is not None and "memory" in (unified[0] / "cgroup.controllers").read_text().split():
        return Hierarchy(2, dict.fromkeys(CONTROLLERS, unified))
    return None
