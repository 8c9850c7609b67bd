"""One attempt at an invocation: what is known about it while it waits and runs, and what is written when it ended.

It is the Caller that the pool serves: `start` and `refuse` go on to execute.py, which tells the story. Its times are
this host's monotonic microseconds; what is written is on the Redis server's clock, as it was when the call arrived.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from jiffy.contract import keys, meter
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Answer, Call, InvocationRecord, Outcome, Revision, Usage
from jiffy.contract.wire import pack, unpack

from . import policy
from .completions import Completion
from .lease import Slot
from .logbook import Logbook
from .refusal import Refusal


class Known(NamedTuple):
    """A revision, and what follows from it: made once for each distinct one."""

    revision: Revision
    logs_key: str
    timeout_s: float

    @classmethod
    def unpack(cls, packed: bytes) -> Known:
        """Raises PlatformError."""
        revision = unpack(Revision, packed)
        if not revision.layers:
            raise PlatformError(f"revision {revision.number} of {revision.function} has no layers")
        return cls(revision, keys.logs(revision.tenant, revision.function), revision.timeout_ms / 1000)


class Story(Protocol):
    """What an attempt tells its executor."""

    def begin(self, attempt: Attempt, slot: Slot, now_us: int) -> None: ...
    def turned_away(self, attempt: Attempt, refusal: Refusal) -> None: ...


class Attempt:
    """See the module."""

    __slots__ = (
        *("_story", "arrived_us", "call", "cold", "entry", "init_log", "init_us", "known", "latest_start_us"),
        *("log", "noted", "offset_us", "queue_us", "size", "slot", "started_us"),
    )

    def __init__(self, entry: bytes, call: Call, known: Known, now_us: int, offset_us: int, story: Story) -> None:
        self.entry = entry
        self.call = call
        self.known = known
        self.size = len(call.payload)
        self.arrived_us = now_us
        self.offset_us = offset_us  # the server's clock less ours
        self.latest_start_us = policy.latest_start_us(call.deadline_ms, known.revision.timeout_ms) - offset_us
        self.cold = False
        self.init_us = 0
        self.init_log = b""
        self.slot: Slot | None = None  # while it runs
        self.started_us = 0
        self.queue_us = 0  # accepted → started, the cold start excluded
        self.log: Logbook | None = None  # once something was printed
        self.noted = False  # Redis has heard that it runs
        self._story = story

    def start(self, slot: Slot, now_us: int) -> None:
        self.slot = slot
        self.started_us = now_us
        self.queue_us = self.waited_us(now_us)
        self._story.begin(self, slot, now_us)

    def refuse(self, refusal: Refusal) -> None:
        self._story.turned_away(self, refusal)

    def waited_us(self, now_us: int) -> int:
        """Since it was accepted, its cold start excluded. By two hosts' clocks, so never less than nothing."""
        return max(0, now_us + self.offset_us - self.call.accepted_ms * 1000 - self.init_us)

    def logbook(self) -> Logbook:
        if self.log is None:
            call = self.call
            self.log = Logbook(call.invocation, call.attempt, self.known.revision.number)
        return self.log

    def print(self, slot: Slot, text: bytes) -> None:
        """Add to its log what its instance printed, and count what got lost before it was read."""
        dropped = slot.instance.log_dropped_bytes
        self.logbook().write(text, dropped - slot.dropped_bytes)
        slot.dropped_bytes = dropped

    def record(self, state: str, answer: Answer | None = None) -> bytes:
        """Its InvocationRecord, packed."""
        call, revision = self.call, self.known.revision
        record = InvocationRecord(
            *(call.invocation, revision.tenant, revision.function, revision.number),
            *(state, call.accepted_ms, call.attempt, answer),
        )
        return pack(record)

    def note(self, state: str, logs: tuple[bytes, ...]) -> Completion:
        """What is written while it runs."""
        record_key = keys.invocation(self.call.invocation) if state else ""
        record = self.record(state) if state else b""
        return Completion(self.entry, "", self.known.logs_key, record_key, True, b"", b"", record, b"", logs)

    def completion(
        self,
        invoker: str,
        now_us: int,
        outcome: Outcome,
        payload: bytes,
        duration_us: int = 0,
        max_memory_bytes: int = 0,
        cpu_us: int = 0,
        retry_after_s: float = 0.0,
        again: bytes = b"",
    ) -> Completion:
        """Answer, usage, log and record of the ended attempt, packed; with `again` another attempt follows it."""
        call, revision = self.call, self.known.revision
        now_us += self.offset_us  # from here on, on the server's clock
        started_us = self.started_us + self.offset_us if self.started_us else now_us
        billed_ms = meter.billed_ms(duration_us, outcome)
        answer = Answer(
            *(call.invocation, call.attempt, outcome, payload, self.cold, duration_us, billed_ms),
            *(self.init_us, self.queue_us, max_memory_bytes, retry_after_s),
        )
        usage = Usage(
            *(call.invocation, call.attempt, revision.tenant, revision.function, revision.number, call.trigger),
            *(invoker, started_us // 1000, outcome, self.cold, duration_us, billed_ms),
            *(self.init_us, self.queue_us, revision.memory_mb, max_memory_bytes, cpu_us),
            *(self.size, len(payload)),
        )
        report = (outcome, duration_us, billed_ms, revision.memory_mb, max_memory_bytes, self.init_us)
        logs = self.logbook().close(now_us // 1000, report)
        record_key, record = "", b""
        if call.mode == "async":
            record_key = keys.invocation(call.invocation)
            record = self.record("queued" if again else "done", None if again else answer)
        answers_key = keys.answers(call.gateway) if call.gateway else ""
        return Completion(
            *(self.entry, answers_key, self.known.logs_key, record_key, False),
            *(pack(answer) if answers_key else b"", pack(usage), record, again, logs),
        )
