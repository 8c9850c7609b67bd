"""What to start, keep, freeze, stop and refuse. Pure: plain numbers and `now` in, decisions out.

It owns every threshold of the warm set, each with its reason. It knows no sandbox, no clock and no Redis; pool.py
asks it and does what it says. All times are microseconds on one clock unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jiffy.contract import limits

SECOND_US = 1_000_000
FORK_US = 1_500  # what one more instance costs, measured: worth it once the queue would wait longer than that
EXCHANGE_US = 25  # what another instance takes off a call beside its handler; the rest is our own work, one at a time
STALL_US = 5_000  # a queue of quick calls that stands still for so long
FORKS_AT_ONCE = 8  # per function: a zygote forks one at a time, and durations learnt meanwhile may end the need
BLIND_FORKS_AT_ONCE = 2  # while no duration is known: the first call's may be there before the forks are
FORK_PAUSE_US = 200_000  # after a fork failed: whatever refuses it will hardly change sooner
ANEW_US = SECOND_US  # a single use: what its like would wait for it, so each waiting call gets a fork
FORKS_FAILED_MAX = 3  # in a row: the zygote is broken, and another sandbox takes its place
INSTANCES_PER_SANDBOX = 200  # leaves 5 of limits.PIDS_MAX processes and threads for each
SHORTER, LONGER = 0.2, 1.2  # how fast the usual duration follows a shorter call, and a longer one
STALE_KEEP_US = 2 * SECOND_US  # idle instances of a revision that is not live: long enough for a queue to drain
WAITING_MAX = 4_096  # calls taken from the stream and not yet running; the rest waits in Redis, where others see it
WAITING_BYTES_MAX = 256 * limits.MIB  # and what their payloads may take
WAITING_PER_FUNCTION = WAITING_MAX * 3 // 8  # less than a tenant may have: its other functions want a place, too
RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 30.0
RATE_OVER_S = 10.0  # cold starts are counted over about so long
RATE_MIN = 0.001  # what is less is none
OFTEN = 0.25  # three within ten seconds: each then spares most of what starting that process cost
STEMS_MAX = 32  # of a kind: 7 MB each
EVICTIONS_AT_ONCE = 16  # a second, where what sleeps takes more than it may
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.25, 15.0  # between starts of a driver that fails


@dataclass(frozen=True, slots=True)
class Keep:
    """How long idle things stay; settable on the command line."""

    instance_us: int = 60 * SECOND_US  # the sandbox stays, and forks: how long is the keep-alive policy's to say
    freeze_after_us: int = SECOND_US // 5


def wanted(queued: int, instances: int, starting: int, usual_us: float, stalled_us: int, limit: int) -> int:
    """How many more instances to start now for `queued` calls of one function.

    `instances` serve (all busy, or nothing would queue), `starting` are on their way, `limit` bounds both.
    `usual_us` is how long the handler takes, 0 while unknown. `stalled_us` is for how long no call has begun though
    the calls that run had their chance.

    One more is worth its price when the queue would wait longer than a fork takes; so many callers of a function
    of 50 µs share few instances, and each caller of a slow one gets its own. When a queue stalls, calls have become
    slower than usual: then it doubles at most, until the usual duration has followed.
    """
    there = instances + starting
    bound = min(queued - starting, limit - there, FORKS_AT_ONCE - starting)
    if bound <= 0:
        return 0
    if there == 0:
        return 1  # the first one; how many more is clear when it is up
    if usual_us <= 0:
        return max(0, min(bound, BLIND_FORKS_AT_ONCE - starting))
    needed = -(-int(queued * (usual_us + EXCHANGE_US)) // FORK_US)
    if needed > there:
        return min(needed - there, bound)
    return min(there, bound) if stalled_us >= STALL_US else 0


def learned(usual_us: float, duration_us: int) -> float:
    """The usual duration after one more call, whose handler took `duration_us`.

    It follows shorter calls quickly and longer ones step by step: where processors are short some calls take a
    hundred times as long as the work in them, and a mean that believed it would start instances that make it worse.
    """
    if not usual_us:
        return max(1.0, float(duration_us))
    if duration_us < usual_us:
        return max(1.0, usual_us + (duration_us - usual_us) * SHORTER)
    return min(float(duration_us), usual_us * LONGER)


def so_far(elapsed_us: int) -> int:
    """The usual duration while no call has ended and the first began so long ago; 0: it may yet be a short one."""
    return elapsed_us if elapsed_us >= STALL_US else 0


def short_of(instances: int, starting: int, floor: int) -> int:
    """How many instances to start now so that at least `floor` are there; `instances` counts those `starting`, too."""
    return max(0, min(floor - instances, FORKS_AT_ONCE - starting))


def latest_start_us(deadline_ms: int, timeout_ms: int) -> int:
    """After this moment a handler could no longer have its whole timeout: it must not be started."""
    return (deadline_ms - timeout_ms) * 1000


def retry_after_s(queued: int, instances: int, usual_us: float) -> float:
    """When a place is likely for a caller who is turned away now."""
    expected = queued * (usual_us + EXCHANGE_US) / max(1, instances) / SECOND_US
    return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, expected))


def instance_expired(now_us: int, idle_since_us: int, live: bool, keep: Keep) -> bool:
    """Shall this idle instance go? One of a revision that is no longer live goes soon."""
    return now_us - idle_since_us >= (keep.instance_us if live else min(STALE_KEEP_US, keep.instance_us))


def stale(now_us: int, last_used_us: int, instances: int) -> bool:
    """Shall this sandbox go, which is of no use any more? Never while it has instances."""
    return instances == 0 and now_us - last_used_us >= STALE_KEEP_US


def freeze_due(now_us: int, last_used_us: int, busy: int, keep: Keep) -> bool:
    """Shall this sandbox, with `busy` instances at work, be frozen?"""
    return busy == 0 and now_us - last_used_us >= keep.freeze_after_us


def fits(free_mb: int, reserve_mb: int, memory_mb: int) -> bool:
    """May one more instance of `memory_mb` start on a host with `free_mb`?

    Instances share most pages with their zygote and rarely reach their limit, so what counts is what is really free:
    enough for this one at its limit, and the reserve for everyone else's growth.
    """
    return free_mb - reserve_mb >= memory_mb


def reserve_mb(total_mb: int) -> int:
    """What an invoker leaves untouched of its host's memory."""
    return min(1024, total_mb // 10)


def warm_budget_mb(total_mb: int) -> int:
    """How much memory sandboxes that sleep may take, unless somebody says: the host is not ours alone."""
    return total_mb // 4


def read_count(waiting: int, waiting_bytes: int, mean_bytes: float) -> int:
    """How many entries to read from the stream next; 0: none until some have left.

    What is read can't be taken by another host any more, and its payload lies in this one's memory.
    """
    room = WAITING_MAX - waiting
    room_bytes = WAITING_BYTES_MAX - waiting_bytes
    if room <= 0 or room_bytes <= 0:
        return 0
    return max(1, min(limits.STREAM_READ_MAX, room, int(room_bytes / max(1.0, mean_bytes))))


def may_wait(in_function: int, in_tenant: int, in_all: int, tenant_bytes: int, all_bytes: int) -> bool:
    """May one more call wait, where so many do and their payloads take so much?

    A tenant may fill as much as is still free, as buffers are shared in switches ("dynamic thresholds"): alone it
    gets half, two that flood get a third each, and there is always a place for one who comes later. So what waits
    never keeps the next call in the stream, and nobody's flood turns another's calls away.
    """
    if in_function >= WAITING_PER_FUNCTION or in_tenant >= WAITING_MAX - in_all:
        return False
    return not in_tenant or tenant_bytes <= WAITING_BYTES_MAX - all_bytes


def backoff_s(failures: int) -> float:
    """How long to leave a driver alone after its `failures`-th failure in a row."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * float(2 ** min(failures - 1, 16)))


def cold_rate(rate: float, since_s: float, starts: int = 0) -> float:
    """Cold starts per second, `since_s` after `rate` was right and with `starts` more: a mean that forgets."""
    return rate * math.exp(-since_s / RATE_OVER_S) + starts / RATE_OVER_S


def stems_kept(floor: int, rate: float, start_s: float) -> int:
    """How many stems of a kind stand ready, where so many cold starts come a second and a stem takes `start_s`.

    Enough for those that come while as many are started, and as much again because they don't come evenly.
    A floor of 0 keeps none: so was it asked for.
    """
    return min(STEMS_MAX, floor + math.ceil(2 * rate * start_s - 0.05)) if floor else 0


def comes_often(rate: float) -> bool:
    """Do one tenant's cold starts come so often that a process pays that makes cheaper stems for it alone?"""
    return rate >= OFTEN
