"""Where this host's control groups are mounted, which version they are, and what that version calls its files.

What is done with them: cgroups.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


V1 = Names(
    limit=("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    usage="memory.usage_in_bytes",
    peak="memory.max_usage_in_bytes",
    cpu="cpuacct.usage",
    oom="memory.oom_control",
    anonymous="rss",
)
V2 = Names(
    limit=("memory.max",),
    usage="memory.current",
    peak="memory.peak",
    cpu="cpu.stat",
    oom="memory.events",
    anonymous="anon",
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
