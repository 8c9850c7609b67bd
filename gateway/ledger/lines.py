"""The lines of a bill: one attempt, or the sum of many. Plain data; `to_dict` is its form in JSON, and its keys are
the columns of CSV. Exact values are decimal strings, so that no reader rounds them by accident.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from . import prices
from .prices import Money

FREE = Money(0)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as it was priced."""

    invocation: str
    attempt: int
    started_ms: int
    function: str
    revision: int
    trigger: str
    outcome: str
    cold: bool
    duration_us: int
    billed_ms: int
    init_us: int
    queue_us: int
    memory_mb: int
    max_memory_bytes: int
    cpu_us: int
    bytes_in: int
    bytes_out: int
    price: Money
    book: int
    runtime: str
    tags: str
    late: str  # the month on whose bill it stands because its own was closed: "2026-12"; else ""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "invocation",
        "attempt",
        "started",
        "function",
        "revision",
        "trigger",
        "outcome",
        "cold",
        "duration_ms",
        "billed_ms",
        "init_ms",
        "queue_ms",
        "memory_mb",
        "max_memory_bytes",
        "cpu_ms",
        "bytes_in",
        "bytes_out",
        "gb_seconds",
        "price",
        "price_book",
        "runtime",
        "tags",
        "late",
    )

    @property
    def position(self) -> str:
        """Where this line stands among all: the `after` of the next page."""
        return f"{self.started_ms}.{uuid.UUID(self.invocation).hex}.{self.attempt}"

    def to_dict(self) -> dict[str, object]:
        values = (
            self.invocation,
            self.attempt,
            moment_text(self.started_ms),
            self.function,
            self.revision,
            self.trigger,
            self.outcome,
            self.cold,
            ms_text(self.duration_us),
            self.billed_ms,
            ms_text(self.init_us),
            ms_text(self.queue_us),
            self.memory_mb,
            self.max_memory_bytes,
            ms_text(self.cpu_us),
            self.bytes_in,
            self.bytes_out,
            prices.gb_seconds_text(self.memory_mb * self.billed_ms),
            prices.text(self.price),
            self.book,
            self.runtime,
            self.tags,
            self.late,
        )
        return dict(zip(self.COLUMNS, values, strict=True))


@dataclass(frozen=True, slots=True)
class Sum:
    """Many attempts together: those of one function, of one day, or all."""

    column: str  # what `name` is: "function", "day"; "" for a total
    name: str
    calls: int  # attempts, each of which is priced by itself
    charged: int  # those that have billed time
    failed: int  # charged, and not ok
    cold: int
    duration_us: int
    init_us: int
    rounding_us: int  # billed time beyond what the charged attempts used
    billed_ms: int
    mb_ms: int
    max_memory_bytes: int  # the largest
    price: Money  # of the calls, and of what was kept ready
    books: tuple[int, ...]
    provisioned_mb_ms: int = 0  # of instances kept ready, called or not
    idle_mb_ms: int = 0  # of that, while they had no call
    provisioned_price: Money = FREE  # what keeping them ready cost: in `price`

    @property
    def position(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, object]:
        return self._names() | {
            "calls": self.calls,
            "charged_calls": self.charged,
            "failed_calls": self.failed,
            "cold_calls": self.cold,
            "duration_ms": ms_text(self.duration_us),
            "billed_ms": self.billed_ms,
            "rounding_ms": ms_text(self.rounding_us),
            "init_ms": ms_text(self.init_us),
            "max_memory_bytes": self.max_memory_bytes,
            "gb_seconds": prices.gb_seconds_text(self.mb_ms),
            "price": prices.text(self.price),
            "price_books": list(self.books),
            "provisioned_gb_seconds": prices.gb_seconds_text(self.provisioned_mb_ms),
            "idle_gb_seconds": prices.gb_seconds_text(self.idle_mb_ms),
            "provisioned_price": prices.text(self.provisioned_price),
        }

    def _names(self) -> dict[str, object]:
        if self.column == "trigger":  # "hello schedule nightly": no function's name has a space
            function, _, trigger = self.name.partition(" ")
            return {"function": function, "trigger": trigger}
        return {self.column: self.name} if self.column else {}

    @property
    def of_calls(self) -> Sum:
        """Without what was kept ready."""
        price = Money(self.price - self.provisioned_price)
        return replace(self, price=price, provisioned_mb_ms=0, idle_mb_ms=0, provisioned_price=FREE)

    def plus_all(self, others: Iterable[Sum]) -> Sum:
        """All together, under this one's name."""
        total = self
        for other in others:
            total = total.plus(other)
        return total

    def plus(self, other: Sum) -> Sum:
        """Both together, under this one's name."""
        return Sum(
            column=self.column,
            name=self.name,
            calls=self.calls + other.calls,
            charged=self.charged + other.charged,
            failed=self.failed + other.failed,
            cold=self.cold + other.cold,
            duration_us=self.duration_us + other.duration_us,
            init_us=self.init_us + other.init_us,
            rounding_us=self.rounding_us + other.rounding_us,
            billed_ms=self.billed_ms + other.billed_ms,
            mb_ms=self.mb_ms + other.mb_ms,
            max_memory_bytes=max(self.max_memory_bytes, other.max_memory_bytes),
            price=Money(self.price + other.price),
            books=tuple(sorted({*self.books, *other.books})),
            provisioned_mb_ms=self.provisioned_mb_ms + other.provisioned_mb_ms,
            idle_mb_ms=self.idle_mb_ms + other.idle_mb_ms,
            provisioned_price=Money(self.provisioned_price + other.provisioned_price),
        )


def nothing(column: str = "", name: str = "") -> Sum:
    """The sum of no attempts."""
    return Sum(column, name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, Money(0), ())


def ms_text(us: int) -> str:
    """Microseconds as exact milliseconds: "2.041"."""
    sign = "-" if us < 0 else ""
    return f"{sign}{abs(us) // 1000}.{abs(us) % 1000:03d}"


def moment_text(at_ms: int) -> str:
    """Epoch milliseconds as "2026-11-01T08:30:00.125Z"."""
    return f"{(_EPOCH + dt.timedelta(milliseconds=at_ms)).isoformat(timespec='milliseconds')[:-6]}Z"


def hour_text(hour: int) -> str:
    """Hours since 1970 as "2026-11-01T08:00Z"."""
    return f"{(_EPOCH + dt.timedelta(hours=hour)).isoformat(timespec='minutes')[:16]}Z"


def day_text(day: int) -> str:
    """Days since 1970 as "2026-11-01" (UTC)."""
    return (_EPOCH + dt.timedelta(days=day)).date().isoformat()
