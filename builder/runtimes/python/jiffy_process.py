"""What the agent's processes do to themselves: limits, memory that is closed to others, what a fork must not share.

Lies beside agent.py in the image. Standard library only, and nothing slow: ctypes would cost every start milliseconds.
"""

from __future__ import annotations

import os
import sys


def prctl(option: int, value: int) -> None:
    """prctl(2), by way of what is below ctypes."""
    try:
        import _ctypes
    except ImportError:  # an image that was slimmed to what its function needs
        return
    _ctypes.call_function(_ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl"), (option, value, 0, 0, 0))  # type: ignore[arg-type]


def seal_memory() -> None:
    """Let no process of this user read or write this one's memory, or that of one forked from it: /proc/1/mem, say."""
    prctl(4, 0)  # PR_SET_DUMPABLE


def subreaper() -> None:
    """Orphans of this instance become its children, not the zygote's: so the zygote can tell whose they are."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def limit(name: str, value: int) -> None:
    """Lower a resource limit for good."""
    import resource

    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def refresh() -> None:
    """After a fork: nothing random or temporary may be shared (random itself reseeds through os.register_at_fork)."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        try:
            numpy_random.seed()
        except Exception:
            pass
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.__dict__.update(tempdir=None, _name_sequence=None)


def remove_tree(path: str) -> None:
    """Remove a scratch folder; what can't be removed stays."""
    try:
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            else:
                os.unlink(entry.path)
        os.rmdir(path)
    except (OSError, RecursionError):
        pass
