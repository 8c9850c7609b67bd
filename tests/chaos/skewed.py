"""``python -m tests.chaos.skewed SECONDS MODULE …``: runs a module on a host whose wall clock is so far off.

The clock is set in the process, as its modules see it: libfaketime, which does it below them, also breaks sleeping.
"""

from __future__ import annotations

import runpy
import sys
import time


def main() -> None:
    off_s = int(sys.argv[1])
    now_s, now_ns = time.time, time.time_ns
    time.time = lambda: now_s() + off_s
    time.time_ns = lambda: now_ns() + off_s * 1_000_000_000
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
