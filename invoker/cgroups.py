"""Control groups: each sandbox has one, and each instance a child of it with its own memory limit and counters.

Version 1 is what this was tested on. Version 2 follows its rules (a group with children holds no processes, so the
zygote lives in the leaf "z"; controllers are handed down through cgroup.subtree_control), but had no host to be tested
on. Where groups can't be written, there are none: the agent then limits itself (RLIMIT_DATA, RLIMIT_NPROC), nothing
freezes, and counters come from /proc. Layout: OWN/jiffy-INVOKER/SANDBOX/{z,i-N}; for docker CONTAINER/{z,i-N}.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from jiffy.contract import limits

from .cgroupfs import children, kill, oom_kills, read, remove, rmdir, write
from .hierarchy import CONTROLLERS, V2, Hierarchy, Names, hierarchy

log = logging.getLogger(__name__)

FORK_BYTES = 4 * 1024 * 1024  # page tables and kernel stacks of a fork are charged to the zygote: allow for them
LEFT_BYTES = limits.SCRATCH_MAX_BYTES + limits.SHM_MAX_BYTES + 64 * limits.MIB  # files, and the inodes of as many
SHARES_ASIDE = 64  # of a stem that nobody waits for, while it starts: on a busy host it still gets there in a second
SHARES_PER_CPU, MB_PER_CPU = 1024, 1769  # AWS Lambda's share of a CPU for memory


class Cgroups:
    """The groups of one invoker. `open` returns False where none can be made."""

    def __init__(self, invoker: str) -> None:
        self._name = f"jiffy-{invoker}"
        self._hierarchy = hierarchy()
        self._base: dict[str, Path] = {}

    def open(self) -> bool:
        """Remove what an earlier invoker of the same name left, and make our own base."""
        if self._hierarchy is None:
            return False
        try:
            own = self._hierarchy.folders()
            if self._hierarchy.version == 2:
                own = dict.fromkeys(CONTROLLERS, _delegated(own["memory"]))
            self._base = {name: folder / self._name for name, folder in own.items()}
            for folder in self._bases():
                remove(folder)
                folder.mkdir(exist_ok=True)  # after a crash the kernel may still be burying what was in it
                if self._hierarchy.version == 2:
                    _delegate(folder)
            self.make("probe").remove()
        except OSError as exc:
            log.warning("control groups can't be written (%s): sandboxes limit themselves", exc.strerror)
            self._hierarchy = None
            return False
        return True

    def make(self, name: str) -> Group:
        """A new group for one sandbox."""
        assert self._hierarchy is not None
        folders = {controller: base / name for controller, base in self._base.items()}
        for folder in set(folders.values()):
            folder.mkdir()
        return Group(self._hierarchy, folders, own=True)

    def adopt(self, pid: int) -> Group | None:
        """The group that an engine made for its container; None when it can't be written."""
        found = hierarchy()
        if found is None or pid <= 0:
            return None
        try:
            folders = found.folders(pid)
            if folders["memory"] == found.folders()["memory"]:
                return None  # not a group of its own
            return Group(found, folders, own=False)
        except (OSError, KeyError):
            return None

    def close(self) -> None:
        for folder in self._bases():
            remove(folder)

    def _bases(self) -> list[Path]:
        """Each once, the freezer's first: what is frozen can't die."""
        return sorted(set(self._base.values()), key=lambda folder: folder != self._base["freezer"])


class Group:
    """One sandbox's group. Its zygote's leaf is "z"; instances' are `Cell`s."""

    def __init__(self, hierarchy: Hierarchy, folders: dict[str, Path], *, own: bool) -> None:
        self._v2 = hierarchy.version == 2
        self._names = hierarchy.names
        self._folders = folders
        self._own = own
        self._zygote = folders["memory"] / "z"
        self._dying: list[Path] = []
        self._alarm_fd = -1
        self._alarms = 0
        self._held = 0  # how many instances the limit of the whole has room for
        self._forks = 0  # and the zygote's, once it is forked
        self.memory_mb = 0
        self.shared_bytes = 0  # what every instance shares with the zygote
        self._zygote.mkdir(exist_ok=True)

    def doors(self) -> list[int]:
        """As Cell.doors, for a zygote that moves itself in before `admit`."""
        return [] if self._v2 else [os.open(folder / "tasks", os.O_WRONLY | os.O_CLOEXEC) for folder in self._places()]

    def _places(self) -> list[Path]:
        """Where a zygote is to be."""
        return [*(set(self._folders.values()) - {self._folders["memory"]} if self._own else ()), self._zygote]

    def admit(self, pid: int, pids_max: int, *, moved: bool = False) -> None:
        """Put the zygote in, before it runs; `moved`: it went through the doors, where there are any."""
        if self._own or self._v2:
            write(self._folders["pids"] / "pids.max", str(pids_max))
        for place in self._places() if self._v2 or not moved else ():
            write(place / "cgroup.procs", str(pid))
        if self._v2:
            _delegate(self._folders["memory"])

    def restrict(self, memory_mb: int) -> None:
        """The limits of the function that this sandbox is about to load."""
        self.memory_mb = memory_mb
        self._limit(self._zygote, memory_mb * limits.MIB, fresh=True)
        self._hold(1)
        self._weigh(max(2, memory_mb * SHARES_PER_CPU // MB_PER_CPU))

    def make_way(self) -> None:
        """Until `restrict`: let all that runs go first."""
        self._weigh(SHARES_ASIDE)

    def _weigh(self, shares: int) -> None:
        if self._v2:
            write(self._folders["cpu"] / "cpu.weight", str(min(10_000, max(1, shares * 100 // SHARES_PER_CPU))))
        else:
            write(self._folders["cpu"] / "cpu.shares", str(shares))

    def _hold(self, instances: int) -> None:
        """Bound the sandbox as a whole. What an ended instance left, files above all, is charged to that alone."""
        if instances > self._held:
            self._held = max(instances, 2 * self._held)  # so that few forks have to write it
            each = self.memory_mb * limits.MIB + FORK_BYTES
            self._limit(self._folders["memory"], (self._held + 1) * each + LEFT_BYTES)
            self._forks = 0

    def loaded(self) -> None:
        """The import is over: what the zygote holds now is what its instances share."""
        for line in read(self._zygote / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == self._names.anonymous:
                self.shared_bytes = int(value)

    def _limit(self, folder: Path, limit: int, *, fresh: bool = False) -> None:
        """Set a group's limit; a `fresh` one has none yet."""
        for name in () if fresh else reversed(self._names.limit):  # memory-with-swap may never be below memory
            write(folder / name, str(limit), missing_ok=True)
        for name in self._names.limit:
            write(folder / name, str(limit), missing_ok=name != self._names.limit[0])
        if self._v2:
            write(folder / "memory.swap.max", "0", missing_ok=True)

    def cell(self, n: int, instances: int) -> Cell:
        """The group of instance `n`, one of `instances`."""
        self._bury()
        self._hold(instances)
        if not self._forks:
            self._forks = self._held
            self._limit(self._zygote, self.memory_mb * limits.MIB + (self._forks + 1) * FORK_BYTES)
        memory = self._folders["memory"] / f"i-{n}"
        cpu = self._folders["cpuacct"] / f"i-{n}"
        for folder in {memory, cpu}:
            folder.mkdir()
        self._limit(memory, self.memory_mb * 1024 * 1024, fresh=True)
        return Cell(self, memory, cpu, self._names)

    def whole(self) -> Cell:
        """The group of a program that is its sandbox's only instance: where the zygote would be. It goes with ours."""
        return Cell(self, self._zygote, self._folders["cpuacct"], self._names, own=False)

    def bury(self, folders: Iterable[Path]) -> None:
        """Remove instances' groups, now or when their last process is really gone."""
        self._dying.extend(folders)
        self._bury()

    def _bury(self) -> None:
        self._dying = [folder for folder in self._dying if not rmdir(folder)]

    def memory_bytes(self) -> int:
        return int(read(self._folders["memory"] / self._names.usage) or 0)

    def bound_bytes(self) -> int:
        """What all of it may use."""
        return int(read(self._folders["memory"] / self._names.limit[0]))

    def oom_kills(self) -> int:
        """Of the zygote. Where an engine removed the group before anybody could ask, the alarm knows."""
        return oom_kills(read(self._zygote / self._names.oom)) or self._alarms

    def watch(self) -> int:
        """A descriptor that becomes readable when the zygote runs out of memory; -1 where there is none (version 2).

        A container whose first process is killed is gone, its groups included, before the end of a connection to it
        is always noticed; this is noticed when it happens.
        """
        if self._v2:
            return -1
        self._alarm_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        fd = os.open(self._zygote / self._names.oom, os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(self._zygote / "cgroup.event_control", f"{self._alarm_fd} {fd}")
        finally:
            os.close(fd)
        return self._alarm_fd

    def alarm(self) -> None:
        """It became readable: out of memory, or (once, with the folder gone) the group was removed."""
        if os.eventfd_read(self._alarm_fd) > 1 or self._zygote.exists():
            self._alarms = 1

    def unwatch(self) -> None:
        if self._alarm_fd >= 0:
            os.close(self._alarm_fd)
            self._alarm_fd = -1

    def freeze(self) -> bool:
        """Ask for it; True when every process has stopped."""
        if self._v2:
            write(self._folders["freezer"] / "cgroup.freeze", "1")
            return "frozen 1" in read(self._folders["freezer"] / "cgroup.events")
        write(self._folders["freezer"] / "freezer.state", "FROZEN")
        return read(self._folders["freezer"] / "freezer.state").strip() == "FROZEN"

    def thaw(self) -> None:
        if self._v2:
            write(self._folders["freezer"] / "cgroup.freeze", "0", missing_ok=True)
        else:
            write(self._folders["freezer"] / "freezer.state", "THAWED", missing_ok=True)

    def remove(self) -> None:
        """Kill what is left in it, and remove it; an engine removes its own part."""
        self.unwatch()
        self.thaw()  # what is frozen can't die
        if self._own:
            for folder in set(self._folders.values()):
                remove(folder)
        else:
            for folder in {self._folders["memory"], self._folders["cpuacct"]}:
                for child in children(folder):
                    remove(child)


class Cell:
    """One instance's group. Its counters are read through descriptors that stay open: one pread each.

    Whoever ends a sandbox (the kernel, an engine) may bury the group before we hear of it: its last values stay.
    """

    def __init__(self, group: Group, memory: Path, cpu: Path, names: Names, *, own: bool = True) -> None:
        self._group = group
        self._own = own
        self._memory, self._cpu = memory, cpu
        peak = memory / names.peak
        self._peak_fd = os.open(peak if peak.exists() else memory / names.usage, os.O_RDONLY | os.O_CLOEXEC)
        self._cpu_fd = os.open(cpu / names.cpu, os.O_RDONLY | os.O_CLOEXEC)
        self._oom = memory / names.oom
        self._v2 = names is V2
        self._last_bytes = self._last_us = 0

    def doors(self) -> list[int]:
        """Descriptors through which the instance moves itself in, for the caller to close (empty: see `admit`).

        Version 1 lets a single thread move itself without the lock that every move of another process takes, and
        that waits for all CPUs: 15 ms. It is the opener's right to move that counts, so no right is given away.
        """
        if self._v2:
            return []
        return [os.open(folder / "tasks", os.O_WRONLY | os.O_CLOEXEC) for folder in {self._memory, self._cpu}]

    def admit(self, pid: int) -> None:
        """Move it in, where it could not do so itself."""
        if self._v2 and f"/{self._memory.parent.name}/" in read(Path(f"/proc/{pid}/cgroup")):
            write(self._memory / "cgroup.procs", str(pid))

    def holds(self, pid: int) -> bool:
        """Is it in here, in every hierarchy? Its own code was to see to that, and the pid may be another's by now."""
        end = f"/{self._memory.parent.name}/{self._memory.name}"
        lines = read(Path(f"/proc/{pid}/cgroup")).splitlines()
        return sum(line.endswith(end) for line in lines) >= len({self._memory, self._cpu})

    def max_memory_bytes(self) -> int:
        """The peak of what it used itself (all that its limit counts) plus what it shares; at most its limit."""
        with contextlib.suppress(OSError):  # EBADF and ENODEV: it is gone
            own = int(os.pread(self._peak_fd, 32, 0))
            self._last_bytes = min(own + self._group.shared_bytes, self._group.memory_mb * 1024 * 1024)
        return self._last_bytes

    def cpu_us(self) -> int:
        with contextlib.suppress(OSError):
            text = os.pread(self._cpu_fd, 64, 0)
            self._last_us = int(text.split()[1]) if self._v2 else int(text) // 1000
        return self._last_us

    def oom_kills(self) -> int:
        return oom_kills(read(self._oom))

    def kill(self) -> None:
        """Everything in it."""
        if self._v2 and write(self._memory / "cgroup.kill", "1", missing_ok=True):
            return
        kill(self._memory)

    def remove(self) -> None:
        """Kill what is left; the counters keep their last values."""
        if self._peak_fd < 0:
            return
        self.kill()
        self.max_memory_bytes(), self.cpu_us()
        os.close(self._peak_fd)
        os.close(self._cpu_fd)
        self._peak_fd = self._cpu_fd = -1
        if self._own:
            self._group.bury((self._memory, self._cpu) if self._memory != self._cpu else (self._memory,))


def _delegate(folder: Path) -> None:
    write(folder / "cgroup.subtree_control", "+memory +cpu +pids")


def _delegated(own: Path) -> Path:
    """Version 2: the group under which we may make others: our own, its processes moved into a leaf."""
    if (own / "cgroup.type").exists():  # only the host's root group has none, and may hold processes and children
        leaf = own / "jiffy-host"
        leaf.mkdir(exist_ok=True)
        for pid in read(own / "cgroup.procs").split():
            write(leaf / "cgroup.procs", pid)
    _delegate(own)
    return own
