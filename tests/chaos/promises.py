"""What a great many callers were promised, in little memory, and all of it held against Redis and the ledger.

Ids are in a SQLite file, so that the ledger can be joined with them; whether a call was answered is one bit of its
number. Nothing here grows by more than bits with the number of calls.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from gateway.ledger.tables import OUTCOMES
from jiffy.contract import keys, layout, wire
from jiffy.contract.messages import InvocationRecord, Outcome

SYNC, ASYNC = 0, 1
PAGE = 1000
SHOWN = 20  # broken promises of one kind that are told in words; the others are counted

_OK, _OURS = OUTCOMES[Outcome.OK], (OUTCOMES[Outcome.PLATFORM], OUTCOMES[Outcome.THROTTLED])
_LEDGER = {  # what must be nowhere: a query for the ids
    "lost: promised, and not in the ledger": (
        "SELECT p.id FROM promised p WHERE NOT EXISTS (SELECT 1 FROM book.usage u WHERE u.invocation = p.id)"
    ),
    "in the ledger as done twice": (
        f"SELECT invocation FROM book.usage WHERE outcome = {_OK} GROUP BY invocation HAVING count(*) > 1"
    ),
    "billed twice": "SELECT invocation FROM book.usage WHERE billed_ms > 0 GROUP BY invocation HAVING count(*) > 1",
    "billed for our failure": f"SELECT invocation FROM book.usage WHERE billed_ms > 0 AND outcome IN {_OURS}",
    "an answered synchronous call that is not in the ledger once, as done": (
        f"SELECT p.id FROM promised p JOIN book.usage u ON u.invocation = p.id WHERE p.kind = {SYNC} "
        f"GROUP BY p.id HAVING count(*) <> 1 OR max(u.outcome) <> {_OK}"
    ),
}


class Bits:
    """A set of small whole numbers."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, n: int) -> bool:
        """False: it was there already."""
        byte, bit = n >> 3, 1 << (n & 7)
        if byte >= len(self._bytes):
            self._bytes.extend(bytes(byte + 4096 - len(self._bytes)))
        new = not self._bytes[byte] & bit
        self._bytes[byte] |= bit
        return new


class Promises:
    """`kept` counts by kind; `broken` says what was broken."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE promised (id BLOB PRIMARY KEY, kind INTEGER, n INTEGER) WITHOUT ROWID")
        self._new: list[tuple[bytes, int, int]] = []
        self._answered = Bits()
        self.kept = [0, 0]
        self.broken: Counter[str] = Counter()
        self.examples: list[str] = []

    def accept(self, kind: int, invocation: str, n: int) -> None:
        """Call `n` was answered (SYNC), or accepted (ASYNC), under this id."""
        self.kept[kind] += 1
        self._new.append((uuid.UUID(invocation).bytes, kind, n))
        if len(self._new) == PAGE:
            self._write()
        if kind == SYNC:
            self.answer(n)

    def answer(self, n: int) -> None:
        """Call `n` has its result."""
        if not self._answered.add(n):
            self.breach("answered twice", f"call {n}")

    def breach(self, kind: str, what: str) -> None:
        self.broken[kind] += 1
        if self.broken[kind] <= SHOWN:
            self.examples.append(f"{kind}: {what}")

    def _write(self) -> None:
        """Raises sqlite3.IntegrityError when two calls have one id."""
        self._db.executemany("INSERT INTO promised VALUES (?, ?, ?)", self._new)
        self._new.clear()

    async def verify(self, redis_url: str, data: Path) -> Counter[str]:
        """How asynchronous calls ended; what is not as it was promised is in `broken` afterwards."""
        self._write()
        self._db.commit()
        self._db.execute("ATTACH DATABASE ? AS book", (f"file:{data / layout.LEDGER}?mode=ro",))
        for kind, query in _LEDGER.items():
            for (invocation,) in self._db.execute(query):
                self.breach(kind, str(uuid.UUID(bytes=invocation)))
        ends: Counter[str] = Counter()
        async with Redis.from_url(redis_url, protocol=2) as redis:
            rows = self._db.execute("SELECT id, n FROM promised WHERE kind = ? ORDER BY id", (ASYNC,))
            while page := rows.fetchmany(PAGE):
                names = [keys.invocation(str(uuid.UUID(bytes=invocation))) for invocation, _ in page]
                for (invocation, n), packed in zip(page, await redis.mget(names), strict=True):
                    ends[self._end(str(uuid.UUID(bytes=invocation)), n, packed)] += 1
        return ends

    def _end(self, invocation: str, n: int, packed: Any) -> str:
        record = wire.unpack(InvocationRecord, packed) if packed else None
        if record is None or record.answer is None or record.state not in ("done", "dead"):
            self.breach("lost: accepted, and it has no end", f"{invocation}: {record}")
            return "lost"
        if record.state == "dead":
            if record.answer.outcome != Outcome.PLATFORM:
                self.breach("failed, though its function does not", f"{invocation}: {record}")
            return "dead"
        if json.loads(record.answer.payload) != {"n": n}:
            self.breach("has another one's result", f"{invocation}: {record}")
        self.answer(n)
        return "done"
