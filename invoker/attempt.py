"""One attempt at an invocation: what is known about it while it waits and runs, and what is written when it ended.

It is the Caller that the pool serves: `start` and `refuse` go on to execute.py, which tells the story. Its times are
this host's monotonic microseconds; what is written is on the Redis server's clock, as it was when the call arrived.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from jiffy.contract import keys, limits, meter, retry, spec, spending
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import (
    Answer,
    Call,
    DeadLetter,
    Delivery,
    InvocationRecord,
    Outcome,
    Piece,
    Revision,
    State,
    Terms,
    Usage,
)
from jiffy.contract.wire import pack, unpack

from . import policy
from .completions import Completion, Fate, Spends
from .lease import Slot
from .logbook import Logbook
from .refusal import Refusal
from .streaming import Source, Stream


class Known(NamedTuple):
    """A revision, and what follows from it: made once for each distinct one."""

    revision: Revision
    logs_key: str
    timeout_s: float
    tags: str  # as Usage carries them

    @classmethod
    def unpack(cls, packed: bytes) -> Known:
        """Raises PlatformError."""
        revision = unpack(Revision, packed)
        if not revision.layers:
            raise PlatformError(f"revision {revision.number} of {revision.function} has no layers")
        tags = spec.tags_text(revision.spec.get("tags", {}))
        return cls(revision, keys.logs(revision.tenant, revision.function), revision.timeout_ms / 1000, tags)


class Story(Protocol):
    """What an attempt tells its executor."""

    def begin(self, attempt: Attempt, slot: Slot, now_us: int) -> None: ...
    def turned_away(self, attempt: Attempt, refusal: Refusal) -> None: ...


class Attempt:
    """See the module."""

    __slots__ = (
        *("_story", "arrived_us", "call", "cold", "entry", "init_log", "init_us", "known", "latest_start_us"),
        *("log", "noted", "offset_us", "queue_us", "size", "slot", "started_us", "stream"),
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
        self.stream: Stream | None = None  # its answer, while it goes out piece by piece
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

    @property
    def streamed_bytes(self) -> int:
        return self.stream.bytes if self.stream is not None else 0

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

    def record(self, state: str, answer: Answer | None = None, due_ms: int = 0, reason: str = "") -> bytes:
        """Its InvocationRecord, packed."""
        call, revision = self.call, self.known.revision
        record = InvocationRecord(
            *(call.invocation, revision.tenant, revision.function, revision.number),
            *(state, call.accepted_ms, call.attempt, answer),
            *(due_ms, reason, call.line),
        )
        return pack(record)

    def note(self, state: str, logs: tuple[bytes, ...]) -> Completion:
        """What is written while it runs."""
        record_key = keys.invocation(self.call.invocation) if state else ""
        record = self.record(state) if state else b""
        return Completion(self.entry, "", self.known.logs_key, record_key, True, b"", b"", record, logs)

    def streamed(self, invoker: str, source: Source, add: Callable[[Completion], None]) -> Stream:
        """Its answer, to go out piece by piece as `source` gives it."""
        call = self.call
        blank = Completion(self.entry, keys.answers(call.gateway), "", "", True, b"", b"", b"", ())
        self.stream = Stream(blank, Piece(call.invocation, call.attempt, 0, invoker, b"", b""), source, add)
        return self.stream

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
    ) -> Completion:
        """Answer, usage, log and record of the ended attempt, packed, and what follows if it was asynchronous."""
        call, revision = self.call, self.known.revision
        now_us += self.offset_us  # from here on, on the server's clock
        started_us = self.started_us + self.offset_us if self.started_us else now_us
        tariff = meter.Tariff(*call.tariff)
        billed_ms = meter.billed_ms(duration_us, outcome, tariff, self.init_us)
        answer = Answer(
            *(call.invocation, call.attempt, outcome, payload, self.cold, duration_us, billed_ms),
            *(self.init_us, self.queue_us, max_memory_bytes, retry_after_s),
            *((self.stream.pieces,) if self.stream else ()),
        )
        usage = Usage(
            *(call.invocation, call.attempt, revision.tenant, revision.function, revision.number, call.trigger),
            *(invoker, started_us // 1000, outcome, self.cold, duration_us, billed_ms),
            *(self.init_us, self.queue_us, revision.memory_mb, max_memory_bytes, cpu_us),
            *(self.size, len(payload) + self.streamed_bytes, tariff.book, revision.runtime, self.known.tags),
        )
        report = (outcome, duration_us, billed_ms, revision.memory_mb, max_memory_bytes, self.init_us)
        logs = self.logbook().close(now_us // 1000, report)
        record_key, record, fate = "", b"", None
        if call.mode == "async":
            record_key = keys.invocation(call.invocation)
            record, fate = self._follow(answer, now_us // 1000)
        elif call.recorded:
            record_key = keys.invocation(call.invocation)
            never_began = not self.started_us and not outcome.billable
            record = b"" if never_began else self.record(State.DONE, answer)  # "": whoever asks again gets a new try
        answers_key = keys.answers(call.gateway) if call.gateway else ""
        return Completion(
            *(self.entry, answers_key, self.known.logs_key, record_key, False),
            *(pack(answer) if answers_key else b"", pack(usage), record, logs, fate),
            _spends(call, billed_ms) if call.hold else None,
            revision.tenant,
        )

    def _follow(self, answer: Answer, now_ms: int) -> tuple[bytes, Fate]:
        """What follows this attempt: the record, packed, and the rest of it."""
        call, tenant = self.call, self.known.revision.tenant
        terms = call.terms or Terms(limits.RETRIES_DEFAULT, call.deadline_ms - self.known.revision.timeout_ms)
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        verdict = retry.after(Outcome(answer.outcome), self.started_us > 0, terms, now_ms, chance)
        state, due_ms = verdict.state, verdict.due_ms
        if state is State.QUEUED:
            again = pack(call._replace(attempt=call.attempt + 1, terms=verdict.terms))
            keep_s = max(0, terms.expires_ms - now_ms) // 1000 + limits.RESULT_LOST_S
            fate = Fate(call.invocation, tenant, state, due_ms, again, b"", self.size, keep_s)
            return self.record(state, None, due_ms), fate
        told = self._tell(terms, answer, verdict.reason, now_ms)
        if state is State.DONE:
            fate = Fate(call.invocation, tenant, state, now_ms, b"", b"", self.size, terms.keep_s, *told)
            return self.record(state, answer), self._in_line(fate)
        letter = pack(self._letter(answer, verdict.reason, now_ms))
        fate = Fate(call.invocation, tenant, state, now_ms, pack(call), letter, self.size, limits.DEAD_KEEP_S, *told)
        return self.record(state, answer, 0, verdict.reason), self._in_line(fate)

    def _in_line(self, fate: Fate) -> Fate:
        """With what the call behind it in its line needs to know. One under a budget or quota is asked about first."""
        revision, line = self.known.revision, self.call.line
        if not line:
            return fate
        alike = "" if self.call.hold else revision.digest
        return fate._replace(line=keys.line(revision.tenant, revision.function, line), alike=alike)

    def _tell(self, terms: Terms, answer: Answer, reason: str, now_ms: int) -> tuple[str, bytes]:
        """Id and packed Delivery to this end's destination; ("", b"") when there is none."""
        target = terms.on_failure if reason else terms.on_success
        if not target:
            return "", b""
        call, revision = self.call, self.known.revision
        delivery = Delivery(
            *(f"{call.invocation}.{call.attempt}", target, revision.tenant, revision.function, revision.number),
            invocation=call.invocation,
            attempts=call.attempt,
            outcome=answer.outcome,
            reason=reason,
            ended_ms=now_ms,
            request=call.payload,
            response=answer.payload,
            depth=terms.depth + 1,
            terms=Terms(
                limits.DELIVERY_RETRIES,
                now_ms + limits.DELIVERY_MAX_AGE_S * 1000,
                limits.DELIVERY_BACKOFF_S * 1000,
            ),
        )
        return delivery.id, pack(delivery)

    def _letter(self, answer: Answer, reason: str, now_ms: int) -> DeadLetter:
        call, revision = self.call, self.known.revision
        return DeadLetter(
            *(call.invocation, revision.tenant, revision.function, revision.number, reason, call.attempt),
            *(call.accepted_ms, now_ms, answer.outcome, answer.payload[: limits.DEAD_ERROR_MAX_BYTES]),
            *(call.trigger, self.size),
        )


def _spends(call: Call, billed_ms: int) -> Spends:
    hold = spending.Hold(*call.hold)
    cost = spending.cost(hold.per_ms, hold.per_call, billed_ms)
    return Spends(hold.keys, cost, -hold.worst, spending.held(hold.slot), hold.places)
