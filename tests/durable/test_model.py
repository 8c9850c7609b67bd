"""A model of claim, fence, completion, retry, takeover, cancelling and replay, walked at random on the
real scripts.

Gateways and invokers are the real stores over a real server; what a process remembers is the test's, so that it can
crash, hang while another goes on, and say things twice or too late. After every step the books must balance, every
invocation must be in the state that the model has, and no attempt may be metered twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from gateway.durable.audit import audit
from gateway.durable.audit_store import AuditStore
from gateway.durable.store import Accepted, Due, DurableStore, Replay
from gateway.durable.takeover_store import Left, Stream, Taken, TakeoverStore
from gateway.ledger.count import Count
from invoker.attempt import Attempt, Known
from invoker.completions import Completion
from invoker.store import Store
from jiffy.contract import keys, lines, wire
from jiffy.contract.clock import Clock
from jiffy.contract.messages import Call, InvocationRecord, Outcome, State, Terms, Usage
from tests.invoker.fakes import revision

INVOKERS = ("inv-1", "inv-2")
OUTCOMES = (Outcome.OK, Outcome.ERROR, Outcome.TIMEOUT, Outcome.PLATFORM)
PACKED = wire.pack(revision())


class Unsettled:
    """A ledger that has settled nothing yet: all usage records are still in Redis."""

    async def settle_now(self) -> int:
        return 0

    async def count(self) -> Count:
        return Count(0, 0, 0, 0)


@dataclass
class Held:
    """An entry as a process of an invoker remembers it, dead processes included."""

    invoker: str
    entry: bytes
    call: Call
    said: list[Completion] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """`ends` is the model: what each invocation is, and which attempt is the next that may end."""

    held: Bundle[Held] = Bundle("held")
    peeked: Bundle[tuple[str, str]] = Bundle("peeked")  # (invocation, invoker): a gateway saw it due, and hesitates
    left: Bundle[tuple[str, Left]] = Bundle("left")  # (invoker, entry): a gateway believes it silent, and hesitates

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.runner = asyncio.Runner()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            self.redis: Any = Redis.from_url(self.url, protocol=2)
            await self.redis.flushall()
            self.gateway = DurableStore(self.redis)
            self.takeover = TakeoverStore(self.redis)
            self.invokers = {name: Store(self.url, name, Clock()) for name in INVOKERS}
            for store in self.invokers.values():
                await store.open()

        self.run(begin())
        self.states: dict[str, State] = {}
        self.attempts: dict[str, int] = {}  # that have ended
        self.line: list[str] = []  # of the calls with an order key, those that have not ended
        self.sent = self.steps = 0

    def teardown(self) -> None:
        async def end() -> None:
            for store in self.invokers.values():
                await store.close()
            await self.gateway.close()
            await self.redis.aclose()

        self.run(end())
        self.runner.close()

    # --- gateways -----------------------------------------------------------------------------------------------

    @rule(invoker=st.sampled_from(INVOKERS), retries=st.integers(0, 2))
    def accept(self, invoker: str, retries: int) -> None:
        """Three calls; the last one is delayed."""
        batch: list[Accepted] = []
        for due_ms in (0, 0, 1):
            self.sent += 1
            invocation = f"call-{self.sent}"
            terms = Terms(retries, 2**52, backoff_ms=0)
            call = Call(invocation, 1, "async", "", 1, 2**52, "invoke", PACKED, b"{}", terms)
            record = InvocationRecord(invocation, "default", "hello", 1, State.QUEUED, 1, 0, None)
            batch.append(Accepted(invoker, "default", call, record, 3600, due_ms))
            self.states[invocation], self.attempts[invocation] = State.QUEUED, 0
        assert self.run(self.gateway.accept(batch, 1000, 10**6)) == [1, 1, 1]

    @rule(invoker=st.sampled_from(INVOKERS), delayed=st.booleans())
    def accept_in_order(self, invoker: str, delayed: bool) -> None:
        """Two calls with the same order key; the second one may be delayed."""
        batch: list[Accepted] = []
        for due_ms in (0, int(delayed)):
            self.sent += 1
            invocation = f"call-{self.sent}"
            terms = Terms(1, 2**52, backoff_ms=0)
            call = Call(invocation, 1, "async", "", 1, 2**52, "invoke", PACKED, b"{}", terms, line="k")
            record = InvocationRecord(invocation, "default", "hello", 1, State.QUEUED, 1, 0, None, line="k")
            batch.append(Accepted(invoker, "default", call, record, 3600, due_ms))
            self.states[invocation], self.attempts[invocation] = State.QUEUED, 0
            self.line.append(invocation)
        assert self.run(self.gateway.accept(batch, 1000, 10**6)) == [1, 1]

    @rule(target=peeked, invoker=st.sampled_from(INVOKERS))
    def look_for_what_is_due(self, invoker: str) -> Any:
        return multiple(*self.look_for_due(invoker))

    def look_for_due(self, invoker: str) -> list[tuple[str, str]]:
        return [(invocation, invoker) for invocation, _ in self.run(self.gateway.due(100))]

    @rule(one=peeked)
    def move(self, one: tuple[str, str]) -> None:
        """Maybe long after it was seen: cancelled, moved by another gateway, or waiting for a later attempt."""
        invocation, invoker = one
        record = InvocationRecord(invocation, "default", "hello", 1, State.QUEUED, 1, 0, None)
        where = self.run(self.gateway.where("default", invocation))
        assert self.run(self.gateway.move([Due(invoker, "default", record)])) == [where == "later"]

    @precondition(lambda self: self.states)
    @rule(data=st.data(), everything=st.booleans())
    def cancel(self, data: st.DataObject, everything: bool) -> None:
        known = sorted(self.states)
        for invocation in known if everything else [data.draw(st.sampled_from(known))]:
            self._cancel(invocation)

    def _cancel(self, invocation: str) -> None:
        where = self.run(self.gateway.where("default", invocation))
        if where is None:
            assert State(self.states[invocation]).ended
            return
        line = "k" if invocation in self.line else ""
        record = InvocationRecord(invocation, "default", "hello", 1, State.CANCELLED, 1, 0, None, line=line)
        if self.run(self.gateway.cancel("default", where, record, 2)) == 1:
            assert self.states[invocation] is State.QUEUED
            self.states[invocation] = State.CANCELLED
            self.left_the_line(invocation)

    @precondition(lambda self: State.DEAD in self.states.values())
    @rule(data=st.data(), twice=st.booleans(), purge=st.booleans())
    def replay_or_purge(self, data: st.DataObject, twice: bool, purge: bool) -> None:
        letters = self.run(self.gateway.letters("default", None, 100))
        if not letters:
            return
        invocation = data.draw(st.sampled_from(sorted(letter.invocation for letter in letters)))
        assert self.states[invocation] is State.DEAD
        found = self.run(self.gateway.letter("default", invocation))
        assert found is not None and isinstance(found[1], Call)
        again = found[1]._replace(attempt=found[1].attempt + 1, terms=Terms(1, 2**52, backoff_ms=0))
        record = InvocationRecord(invocation, "default", "hello", 1, State.QUEUED, 1, again.attempt - 1, None)
        for n in range(1 + twice):
            if purge:
                assert self.run(self.gateway.purge("default", [invocation])) == (n == 0)
            else:
                one = Replay(again, record._replace(line=again.line), 3600, 1)
                assert self.run(self.gateway.replay("default", [one])) == (n == 0)
                self.states[invocation] = State.QUEUED
                if again.line and n == 0:
                    self.line.append(invocation)

    @rule(target=left, silent=st.sampled_from(INVOKERS))
    def look_what_it_left(self, silent: str) -> Any:
        return multiple(*((silent, one) for one in self.run(self.takeover.left(silent, "", 100))))

    @rule(one=left)
    def take_over(self, one: tuple[str, Left]) -> None:
        """Maybe it was taken by another gateway, given to its invoker or completed meanwhile."""
        silent, left = one
        [to] = set(INVOKERS) - {silent}
        call = wire.unpack(Call, left.packed)
        where = self.run(self.gateway.where("default", call.invocation))
        now = {found.entry: found.given for found in self.run(self.takeover.left(silent, "", 100))}
        taken = Taken(left, to, "default", call._replace(lost=silent if left.given else ""))
        assert self.run(self.takeover.take_over(Stream(silent, "", 1), [taken]))
        moved = self.run(self.gateway.where("default", call.invocation)) != where
        assert moved == (now.get(left.entry) == left.given)

    # --- invokers -----------------------------------------------------------------------------------------------

    @rule(target=held, invoker=st.sampled_from(INVOKERS), count=st.integers(1, 3))
    def read(self, invoker: str, count: int) -> Any:
        return multiple(*(self._hold(invoker, e) for e in self.run(self.invokers[invoker].read(count, 1))))

    @rule(target=held, invoker=st.sampled_from(INVOKERS))
    def crash_and_recover(self, invoker: str) -> Any:
        """The new process is given what was pending; the old one may still be about to say something."""
        return multiple(*(self._hold(invoker, e) for e in self.run(self.invokers[invoker].pending())))

    @rule(one=held, outcome=st.sampled_from(OUTCOMES))
    def complete(self, one: Held, outcome: Outcome) -> None:
        store = self.invokers[one.invoker]
        offset_us = 1_000_000
        known = Known.unpack(one.call.revision)
        attempt = Attempt(one.entry, one.call, known, 1, offset_us, None)  # type: ignore[arg-type]
        attempt.started_us = 1
        completion = attempt.completion(one.invoker, 2, outcome, b"{}", duration_us=1)
        pending = {entry for entry, _ in self.run(store.pending())}
        self.run(store.complete([completion]))
        one.said.append(completion)
        if one.entry in pending:  # it was still ours: this is the end of the attempt
            invocation = one.call.invocation
            assert self.states[invocation] is State.QUEUED, "what has ended does not end again"
            assert one.call.attempt == self.attempts[invocation] + 1, "attempts end one by one"
            assert completion.fate is not None
            assert invocation not in self.line or invocation == self.line[0], "what is behind another does not run"
            self.attempts[invocation], self.states[invocation] = one.call.attempt, State(completion.fate.state)
            if self.states[invocation].ended:
                self.left_the_line(invocation)

    @precondition(lambda self: State.QUEUED in self.states.values())
    @rule(invoker=st.sampled_from(INVOKERS), outcome=st.sampled_from((Outcome.ERROR, Outcome.OK)))
    def run_all(self, invoker: str, outcome: Outcome) -> None:
        """What is due is moved here, and all that stands here ends alike."""
        for one in self.look_for_due(invoker):
            self.move(one)
        for found in self.run(self.invokers[invoker].read(100, 1)):
            self.complete(self._hold(invoker, found), outcome)

    @rule(one=held)
    def say_it_again(self, one: Held) -> None:
        """A resend after a lost connection, or of a process that hung while another went on."""
        if one.said:
            self.run(self.invokers[one.invoker].complete(one.said))

    def left_the_line(self, invocation: str) -> None:
        if invocation in self.line:
            self.line.remove(invocation)

    def _hold(self, invoker: str, found: tuple[bytes, bytes]) -> Held:
        entry, packed = found
        return Held(invoker, entry, wire.unpack(Call, packed))

    # --- always -------------------------------------------------------------------------------------------------

    @invariant()
    def the_head_of_the_line_can_run_and_none_behind_it(self) -> None:
        where = [self.run(self.gateway.where("default", one)) for one in self.line]
        moments = [self.run(self.redis.zscore(keys.LATER, one)) for one in self.line]
        assert self.run(self.redis.lrange(keys.line("default", "hello", "k"), 0, -1)) == [n.encode() for n in self.line]
        for place, moment in list(zip(where, moments, strict=True))[1:]:
            assert place == "later" and moment >= lines.FAR
        if self.line:
            assert where[0] != "later" or moments[0] < lines.FAR

    @invariant()
    def the_books_balance(self) -> None:
        self.steps += 1
        if self.steps % 4:
            return  # it reads every key
        found = self.run(audit(AuditStore(self.redis), Unsettled()))
        assert [check for check in found.checks if not check.balanced or check.found is None] == []

    @invariant()
    def every_call_is_in_one_state_and_metered_once_per_attempt(self) -> None:
        usage = [wire.unpack(Usage, fields[b"u"]) for _, fields in self.run(self.redis.xrange(keys.USAGE))]
        assert sorted((u.invocation, u.attempt) for u in usage) == sorted(
            (invocation, n + 1) for invocation, ended in self.attempts.items() for n in range(ended)
        )
        for invocation, state in self.states.items():
            record = wire.unpack(InvocationRecord, self.run(self.redis.get(keys.invocation(invocation))))
            assert record.state == state
            assert (self.run(self.gateway.where("default", invocation)) is None) == State(state).ended


@pytest.mark.redis
def test_no_order_of_events_loses_a_call_or_meters_one_twice(redis_url: str) -> None:
    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(redis_url)

    checked = settings(
        max_examples=8,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=(Phase.generate,),  # a walk of fifty steps can be read as it is; shrinking it takes minutes
    )
    run_state_machine_as_test(Here, settings=checked)  # type: ignore[no-untyped-call]
