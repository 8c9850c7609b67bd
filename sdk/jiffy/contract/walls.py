"""What sandboxes of bubblewrap's have in common beside seccomp.py's filter: who they are on the host, and what of /proc
they don't see. Invokers start functions in such, a builder the rehearsal of one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

UID_FIRST = 1_900_000_000  # above what systemd gives to containers, below what Docker refuses (2³¹)
UID_BLOCK, UID_BLOCKS = 65_536, 3_000  # one block per invoker, so that two on a host seldom share
BUILDER_UID = UID_FIRST + UID_BLOCK * UID_BLOCKS  # no invoker's

MASKED_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats")
MASKED_FOLDERS = ("/proc/acpi", "/proc/scsi", "/proc/fs", "/proc/driver")


def masks(exists: Callable[[str], bool]) -> list[str]:
    """bubblewrap's arguments that hide them. It can't hide what this host's /proc has not: `exists` tells."""
    words = []
    for path in filter(exists, MASKED_FILES):
        words += ["--ro-bind", "/dev/null", path]
    for path in filter(exists, MASKED_FOLDERS):
        words += ["--tmpfs", path, "--remount-ro", path]
    return words
