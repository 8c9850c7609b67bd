"""What a caller wishes for one asynchronous call, out of its query and headers, and the terms that follow. Pure.

query           header           what
delay           Jiffy-Delay      seconds before the first attempt
retries         Jiffy-Retries    in place of the function's `retries`
max_age         Jiffy-Max-Age    in place of its `max_age_s`; counted from the end of the delay
order_key       Jiffy-Order-Key  calls with the same one run one at a time, as they were accepted
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jiffy.contract import limits
from jiffy.contract.errors import InvalidRequest
from jiffy.contract.messages import Terms

_HEADERS = {
    "jiffy-delay": "delay",
    "jiffy-retries": "retries",
    "jiffy-max-age": "max_age",
    "jiffy-order-key": "order_key",
}
NAMES = tuple(_HEADERS.values())
KEY_MAX_CHARS = 255


@dataclass(frozen=True, slots=True)
class Wishes:
    """None: as the function declares it."""

    delay_s: float = 0.0
    retries: int | None = None
    max_age_s: float | None = None
    depth: int = 0  # how many destinations led to the call
    order_key: str = ""

    def terms(self, declared: Mapping[str, Any], now_ms: int) -> Terms:
        """The terms of a call that is accepted now, by a function with this `spec`; older specs lack keys."""
        retries = declared.get("retries", limits.RETRIES_DEFAULT) if self.retries is None else self.retries
        max_age_s = declared.get("max_age_s", limits.ASYNC_WAIT_MAX_S) if self.max_age_s is None else self.max_age_s
        backoff_s = declared.get("backoff_s", limits.BACKOFF_DEFAULT_S)
        expires_ms = now_ms + int((self.delay_s + max_age_s) * 1000)
        return Terms(
            *(int(retries), expires_ms, int(backoff_s * 1000)),
            on_success=str(declared.get("on_success", "")),
            on_failure=str(declared.get("on_failure", "")),
            depth=self.depth,
            keep_s=int(declared.get("result_keep_s", limits.RESULT_KEEP_S)),
        )


NONE = Wishes()


def read(query: Mapping[str, str], headers: Iterable[tuple[str, str]]) -> Wishes:
    """`headers` have lower-case names; the query wins. Raises InvalidRequest."""
    given = {_HEADERS[name]: value for name, value in headers if name in _HEADERS}
    given |= {name: query[name] for name in NAMES if name in query}
    if not given:
        return NONE
    retries, age = given.get("retries"), given.get("max_age")
    return Wishes(
        delay_s=_seconds("delay", given.get("delay", "0"), 0.0, limits.DELAY_MAX_S),
        retries=None if retries is None else _whole("retries", retries, limits.RETRIES_MAX),
        max_age_s=None if age is None else _seconds("max_age", age, limits.MAX_AGE_MIN_S, limits.MAX_AGE_MAX_S),
        order_key=_key("order_key", given["order_key"]) if "order_key" in given else "",
    )


def _key(name: str, text: str) -> str:
    if not 0 < len(text) <= KEY_MAX_CHARS or not text.isprintable():
        raise InvalidRequest(f"{name} = {text[:40]!r}; allowed: 1 to {KEY_MAX_CHARS} printable characters")
    return text


def _seconds(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InvalidRequest(f"{name} = {text[:40]!r}; allowed: a number of seconds from {low:g} to {high:g}")
    return value


def _whole(name: str, text: str, high: int) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not 0 <= value <= high:
        raise InvalidRequest(f"{name} = {text[:40]!r}; allowed: a whole number from 0 to {high}")
    return value
