"""What happens to whom, when and for how long: made of a seed alone, so that a failing run can be run again."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    KILL = "kill -9"  # and started again after `seconds`
    PAUSE = "SIGSTOP"  # SIGCONT after `seconds`
    CUT = "cut"  # its connections to Redis end, and new ones too
    STALL = "stall"  # nothing gets through on them
    LOSS = "loss"  # a fifth of its packets, in and out; needs a network of its own
    FULL = "full"  # no byte is left on the disk
    RESTART = "restart"  # the engine ends with its containers, and comes back


@dataclass(frozen=True, slots=True)
class Event:
    at_s: float
    kind: Kind
    target: str  # "redis", "ledger", "gw-1", "inv-1" …, "disk", "engine"
    seconds: float

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.kind} {self.target} for {self.seconds:.2f} s"


# For how long; the longest are beyond every patience: limits.TAKEN_AFTER_S, a gateway's, a connection's.
_SECONDS = {
    Kind.KILL: {"redis": (0.1, 1.5), "gw": (0.2, 2.0), "inv": (0.2, 7.0), "ledger": (0.2, 5.0)},
    Kind.PAUSE: {
        **{"redis": (0.3, 4.0), "gw": (0.3, 5.0), "inv": (0.5, 8.0), "ledger": (0.5, 8.0)},
        "engine": (0.5, 5.0),
    },
    Kind.CUT: {"gw": (0.1, 5.0), "inv": (0.1, 7.0)},
    Kind.STALL: {"gw": (0.3, 5.0), "inv": (0.3, 7.0)},
    Kind.LOSS: {"gw": (0.5, 4.0), "inv": (0.5, 6.0), "ledger": (0.5, 6.0)},
    Kind.FULL: {"disk": (0.3, 3.0)},
    Kind.RESTART: {"engine": (0.1, 3.0)},
}


def schedule(
    seed: int, targets: Sequence[str], duration_s: float, mean_s: float, kinds: Collection[Kind] = tuple(Kind)
) -> Iterator[Event]:
    """Events in order, about one every `mean_s`, never two at a time on one target; all begin within `duration_s`.

    Each target must be able to suffer one of `kinds`.
    """
    chance = random.Random(seed)
    free_s = dict.fromkeys(targets, 0.0)
    at_s = 1.0
    while True:
        at_s += chance.expovariate(1 / mean_s)
        target = chance.choice(list(targets))
        room = target.partition("-")[0]
        kind = chance.choice([kind for kind, of in _SECONDS.items() if room in of and kind in kinds])
        seconds = chance.uniform(*_SECONDS[kind][room])
        if at_s >= duration_s:
            return
        if at_s >= free_s[target]:
            free_s[target] = at_s + seconds + 0.5
            yield Event(at_s, kind, target, seconds)
