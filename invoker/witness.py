"""What the kernel saw of an instance, against what the instance says: the least that a handler can have taken.

The agent's stamps stand in a process that runs the function's code, which can forge them to say less. What it can't
forge is how long its first thread ran on a processor, and how long that was ready to run and had none
(/proc/PID/schedstat). What is neither claimed, nor such waiting, nor the agent's own work was the handler's. It is only
asked when much is missing from a call; an ordinary one costs an addition and a comparison.
"""

from __future__ import annotations

import contextlib
import os

LOOK_US = 1_000  # what may be missing without a look
UNSEEN_US = 25_000  # how much later than it could we may have read an answer: one busy turn of our loop
AGENT_US, AGENT_BYTES_PER_US = 1_000, 10  # what the agent itself may take around a handler: JSON both ways, flushing


def least_us(claimed_us: int, measured_us: int, agent_us: int, waited_us: int, excess_us: int) -> int:
    """What a call is to be held to at least; never more than was measured.

    `waited_us`: for a processor. `excess_us`: by how much the thread ran longer than its calls claimed altogether.
    """
    unexplained_us = measured_us - waited_us - agent_us - UNSEEN_US
    return min(measured_us, max(claimed_us, unexplained_us, claimed_us + excess_us))


class Witness:
    """Of one instance, while it lives."""

    __slots__ = ("_claimed_us", "_fd", "_ran_us", "_waited_us")

    def __init__(self) -> None:
        self._fd = -1
        self._ran_us = self._waited_us = 0  # when we last looked
        self._claimed_us = 0  # by calls since then, the agent's share included

    def watch(self, pid: int) -> None:
        """From now on."""
        with contextlib.suppress(OSError):  # then nobody can say
            self._fd = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._ran_us, self._waited_us = self._look()

    def held(self, claimed_us: int, measured_us: int, size: int) -> int:
        """What a call took whose event and result have `size` bytes together."""
        agent_us = AGENT_US + size // AGENT_BYTES_PER_US
        self._claimed_us += claimed_us + agent_us
        if measured_us - claimed_us <= LOOK_US or self._fd < 0:
            return claimed_us
        try:
            ran_us, waited_us = self._look()
        except (OSError, ValueError):
            return claimed_us
        waited_us, self._waited_us = waited_us - self._waited_us, waited_us
        excess_us = ran_us - self._ran_us - self._claimed_us
        self._ran_us, self._claimed_us = ran_us, 0
        return least_us(claimed_us, measured_us, agent_us, waited_us, excess_us)

    def _look(self) -> tuple[int, int]:
        ran_ns, waited_ns, _ = os.pread(self._fd, 64, 0).split()
        return int(ran_ns) // 1000, int(waited_ns) // 1000

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
