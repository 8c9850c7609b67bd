"""The host's time zones, made small: equal zones once, and each without what Python and glibc never read.

A TZif file (RFC 8536) of version 2 or later holds its data twice, in 32 and in 64 bits; readers of this century skip
the first. The copies under posix/ and right/ are for programs that nobody runs in a function.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ZONEINFO = Path("/usr/share/zoneinfo")
_HEADER = 44
_COUNTS = struct.Struct(">6L")  # isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt
_EMPTY = _COUNTS.pack(0, 0, 0, 0, 1, 1) + bytes(6 + 1)  # one type and its empty name: the least that is valid


class Zone(NamedTuple):
    """One file of the time zone data."""

    source: Path
    content: bytes
    same_as: Path | None  # an earlier one with the same content


def zones(folder: Path = ZONEINFO) -> Iterator[Zone]:
    """What an image needs of `folder`, in the order of names. Nothing where there is no such folder."""
    first: dict[bytes, Path] = {}
    for here, dirs, names in os.walk(folder):
        dirs[:] = sorted(d for d in dirs if d not in ("posix", "right"))
        for name in sorted(names):
            source = Path(here, name)
            content = slim(source.read_bytes())
            if content[:4] == b"TZif" or name.endswith(".tab"):
                yield Zone(source, content, first.get(content))
                first.setdefault(content, source)


def slim(content: bytes) -> bytes:
    """A TZif file with an empty 32-bit part, as `zic -b slim` writes it; anything else as it is."""
    if content[:4] != b"TZif" or content[4:5] < b"2" or len(content) < _HEADER:
        return content
    isut, isstd, leap, times, types, chars = _COUNTS.unpack_from(content, 20)
    rest = _HEADER + times * 5 + types * 6 + chars + leap * 8 + isstd + isut
    return content if content[rest : rest + 4] != b"TZif" else content[:20] + _EMPTY + content[rest:]
