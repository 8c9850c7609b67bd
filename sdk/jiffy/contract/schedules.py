"""When does a schedule tick? Cron (five or six fields), rate(…) and at(…), in a time zone. Pure: times in, times out.

Times are epoch milliseconds. Cron is Debian's, through cronsim: a job of a day that has its hour twice or not at all
(summer time) runs once. What a tick does, and who fires it: gateway/triggers/scheduler.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

# A tick this old is still fired: a busy or restarted gateway is late, not down. An older one was missed.
LATE_MAX_MS = 10_000
# What a schedule may speak of: well within what datetime can hold in every time zone.
_FIRST, _END = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
END_MS = int(_END.timestamp()) * 1000
_RATE = re.compile(r"rate\((\d{1,6}) (second|minute|hour|day)s?\)")
_AT = re.compile(r"(?:at\()?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d)?)\)?")
_UNIT_MS = {"second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def cron(value: Any) -> str:
    """A cron expression that has a tick, as it was written. Raises ValueError with what is allowed."""
    allowed = (
        'five fields, such as "0 9 * * mon-fri", six with seconds first, such as "*/2 * * * * *", or one of '
        + ", ".join(_NAMES)
    )
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(allowed)
    try:
        next(_ticks(value, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as exc:
        raise ValueError(f"{allowed} ({exc})") from None
    except StopIteration:
        raise ValueError(f"{allowed}; this one never comes") from None
    return value


def rate(value: Any) -> str:
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[1]) == 0:
        raise ValueError('"rate(5 minutes)": a whole number from 1 of seconds, minutes, hours or days')
    return str(value)


def moment(value: Any) -> str:
    """A time as text, from TOML's own kind of date too."""
    if isinstance(value, datetime):
        value = value.isoformat(timespec="seconds")
    match = _AT.fullmatch(value) if isinstance(value, str) else None
    try:
        time = datetime.fromisoformat(match[1])  # type: ignore[index]
        if _FIRST <= (time if time.tzinfo else time.replace(tzinfo=UTC)) < _END:
            return time.isoformat(timespec="seconds")
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(
        'a time such as "2027-01-31T09:00:00" (in `timezone`) or "2027-01-31T09:00:00Z", '
        "from 1970-01-02 to the year 8999"
    )


def zone(value: Any) -> str:
    try:
        if not isinstance(value, str) or len(value) > 64:
            raise ValueError
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError('a time zone such as "UTC" or "Europe/Berlin"') from None
    return value


def _ticks(expression: str, start: datetime, reverse: bool = False) -> CronSim:
    return CronSim(_NAMES.get(expression, expression), start, reverse)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule. `since_ms` is when it was first seen: rates count from it, and nothing was missed before it."""

    cron: str
    period_ms: int
    at_ms: int
    zone: tzinfo
    start_ms: int
    end_ms: int | None
    jitter_ms: int
    overlap: str  # "allow" | "skip" | "queue"
    catch_up: str  # "skip" | "one" | "all"
    since_ms: int = 0

    def due(self, last_ms: int, now_ms: int) -> int | None:
        """The tick to fire next, when `last_ms` was the last one: of those that were missed, what catch_up says."""
        tick = self.after(last_ms)
        missed_before = now_ms - LATE_MAX_MS - self.jitter_ms
        if tick is None or tick >= missed_before or self.catch_up == "all":
            return tick
        return self._latest(now_ms) if self.catch_up == "one" else self.after(missed_before - 1)

    def after(self, ms: int) -> int | None:
        """The first tick after `ms`; None when there is none any more."""
        ms = max(ms, self.start_ms - 1)
        if ms >= END_MS:
            return None
        if self.at_ms:
            tick = self.at_ms if ms < self.at_ms else None
        elif self.period_ms:
            base, first = (self.start_ms, 0) if self.start_ms > self.since_ms else (self.since_ms, 1)
            tick = base + max(first, (ms - base) // self.period_ms + 1) * self.period_ms
        else:
            tick = self._cron(ms)
        return None if tick is None or tick >= min(self.end_ms or END_MS, END_MS) else tick

    def delay_ms(self, trigger: str, tick_ms: int) -> int:
        """By how much this tick is delayed: the same in every gateway, evenly spread over jitter_ms."""
        if not self.jitter_ms:
            return 0
        digest = blake2b(f"{trigger}\0{tick_ms}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.jitter_ms

    def _latest(self, now_ms: int) -> int | None:
        """The last tick up to now."""
        if self.end_ms is not None:
            now_ms = min(now_ms, self.end_ms - 1)
        if self.at_ms:
            return self.at_ms
        if self.period_ms:
            base = max(self.since_ms, self.start_ms)
            return base + (now_ms - base) // self.period_ms * self.period_ms
        return self._cron(now_ms + 1000, reverse=True)

    def _cron(self, ms: int, reverse: bool = False) -> int | None:
        try:
            found = next(_ticks(self.cron, datetime.fromtimestamp(ms // 1000, self.zone), reverse))
        except (StopIteration, OverflowError):
            return None
        return int(found.timestamp()) * 1000


def schedule(options: Mapping[str, Any], since_ms: int = 0) -> Schedule:
    """The schedule that a checked trigger declares."""
    where = ZoneInfo(options["timezone"])

    def ms(text: str) -> int:
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=where)).timestamp() * 1000)

    every = _RATE.fullmatch(options["rate"])
    return Schedule(
        cron=options["cron"],
        period_ms=int(every[1]) * _UNIT_MS[every[2]] if every else 0,
        at_ms=ms(options["at"]) if options["at"] else 0,
        zone=where,
        start_ms=ms(options["start"]) if options["start"] else 0,
        end_ms=ms(options["end"]) if options["end"] else None,
        jitter_ms=round(options["jitter_s"] * 1000),
        overlap=options["overlap"],
        catch_up=options["catch_up"] or ("one" if options["at"] else "skip"),
        since_ms=since_ms,
    )
