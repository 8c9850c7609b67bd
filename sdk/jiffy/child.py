"""``python -m jiffy.child PARENT …``: becomes a process of the platform that does not outlive its supervisor.

The kernel sends SIGTERM when the parent dies, however it dies (``kill -9`` included); each process then cleans up as
on any SIGTERM. Imports next to nothing: it runs at the start of every process.

    jiffy.child PARENT gateway|gateway.ledger|invoker|builder ARG …   runs that package
    jiffy.child PARENT exec /path/of/program ARG …     becomes that program
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives execve of a program that is not setuid
PACKAGES = ("gateway", "gateway.ledger", "invoker", "builder")


def die_with_parent(parent: int) -> None:
    """SIGTERM for this process when `parent` ends; ends it now if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died between the fork and the prctl
        sys.exit(0)


def main(argv: list[str]) -> None:
    parent, what, rest = int(argv[0]), argv[1], argv[2:]
    die_with_parent(parent)
    if what == "exec":
        os.execv(rest[0], rest)  # noqa: S606 - an argument list of the supervisor's
    if what not in PACKAGES:
        sys.exit(f"jiffy.child runs {', '.join(PACKAGES)}, not {what!r}")
    sys.argv[1:] = rest
    runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
