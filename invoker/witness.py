"""What the kernel saw of an instance, against what the instance says: the least that a handler can have taken.

The agent's stamps stand in a process that runs the function's code, which can forge them to say less. What it can't
forge is how long its first thread ran on a processor, how long that was ready to run and had none
(/proc/PID/schedstat), and what all of the instance ran. What is neither claimed, nor such waiting, nor the agent's own
work was the handler's. But a thread can wait on purpose while others of its instance work: waiting is only believed as
far as their work does not explain it, and of a thread that gave way to others (nice, SCHED_IDLE) not at all.

A look is taken after each call of a millisecond or more; a shorter one costs an addition and a comparison.
"""

from __future__ import annotations

import contextlib
import os

LOOK_US = 1_000  # what may be missing, and how long a call may be without a look
UNSEEN_US = 25_000  # how much later than it could we may have read an answer: one busy turn of our loop
AGENT_US, AGENT_BYTES_PER_US = 1_000, 10  # what the agent itself may take around a handler: JSON both ways, flushing


def least_us(
    claimed_us: int, measured_us: int, agent_us: int, waited_us: int, excess_us: int, others_us: int = 0
) -> int:
    """What a call is to be held to at least; never more than was measured.

    `waited_us`: for a processor. `excess_us`: by how much the thread ran longer than its calls claimed altogether.
    `others_us`: what the other threads and processes of its instance ran.
    """
    unexplained_us = measured_us - max(0, waited_us - others_us) - agent_us - UNSEEN_US
    return min(measured_us, max(claimed_us, unexplained_us, claimed_us + excess_us))


class Witness:
    """Of one instance, while it lives."""

    __slots__ = ("_claimed_us", "_cpu_us", "_fd", "_pid", "_ran_us", "_waited_us")

    def __init__(self) -> None:
        self._fd = -1
        self._pid = 0  # 0: nobody can say
        self._ran_us = self._waited_us = self._cpu_us = 0  # when we last looked
        self._claimed_us = 0  # by calls since then, the agent's share included

    def watch(self, pid: int, cpu_us: int) -> None:
        """From now on; `cpu_us` as in `held`."""
        with contextlib.suppress(OSError):  # then nobody can say
            self._fd = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._ran_us, self._waited_us = self._look()
            self._pid, self._cpu_us = pid, cpu_us

    def held(self, claimed_us: int, measured_us: int, size: int, cpu_us: int) -> int:
        """What a call took whose event and result have `size` bytes together; `cpu_us`: what all of the instance ran
        in its life.
        """
        agent_us = AGENT_US + size // AGENT_BYTES_PER_US
        self._claimed_us += claimed_us + agent_us
        if measured_us <= LOOK_US or not self._pid:
            return claimed_us
        try:
            ran_us, waited_us = self._look()
            missing = measured_us - claimed_us > LOOK_US
            gave_way = missing and self._gave_way()
        except (OSError, ValueError):  # it ended with its answer, and took its counters along
            return least_us(claimed_us, measured_us, agent_us, 0, 0)
        was = self._ran_us, self._waited_us, self._cpu_us, self._claimed_us
        self._ran_us, self._waited_us, self._cpu_us, self._claimed_us = ran_us, waited_us, cpu_us, 0
        if not missing:
            return claimed_us
        ran_us -= was[0]
        waited_us = 0 if gave_way else waited_us - was[1]
        others_us = max(0, cpu_us - was[2] - ran_us)
        return least_us(claimed_us, measured_us, agent_us, waited_us, ran_us - was[3], others_us)

    def _look(self) -> tuple[int, int]:
        ran_ns, waited_ns, _ = os.pread(self._fd, 64, 0).split()
        return int(ran_ns) // 1000, int(waited_ns) // 1000

    def _gave_way(self) -> bool:
        """Has the thread made itself less urgent than others? It has no right to undo that."""
        ours = max(0, os.getpriority(os.PRIO_PROCESS, 0))  # an operator may have given way with all of the invoker
        return os.getpriority(os.PRIO_PROCESS, self._pid) > ours or os.sched_getscheduler(self._pid) == os.SCHED_IDLE

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
