"""Months in UTC as numbers that can be counted and compared: months since January 1970. Pure."""

from __future__ import annotations

import datetime as dt
import re

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


def of(at_ms: int) -> int:
    """The month that holds a moment."""
    moment = _EPOCH + dt.timedelta(milliseconds=at_ms)
    return (moment.year - 1970) * 12 + moment.month - 1


def bounds_ms(month: int) -> tuple[int, int]:
    """Its first millisecond, and the next month's."""
    return _first_ms(month), _first_ms(month + 1)


def text(month: int) -> str:
    """ "2026-11" """
    years, months = divmod(month, 12)
    return f"{1970 + years:04d}-{months + 1:02d}"


def parse(name: str) -> int:
    """The month called "2026-11". Raises ValueError with what is allowed."""
    match = _MONTH.fullmatch(name)
    if match is None or not 1970 <= int(match[1]) < 6000:
        raise ValueError("a month such as 2026-11")
    return (int(match[1]) - 1970) * 12 + int(match[2]) - 1


def _first_ms(month: int) -> int:
    years, months = divmod(month, 12)
    return (dt.datetime(1970 + years, months + 1, 1, tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(milliseconds=1)
