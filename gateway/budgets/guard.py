"""Which budgets and quotas is a call under, and may it be run? Read first.

    look (four times a second): budgets and counters ──▶ plans, made anew for each revision
    call ──▶ plan? none in nearly all cases: nothing more ──▶ hold: what the invoker counts as the call ends
         ──▶ hard budget, quota: room for it is held first, in one atomic step for all calls that have gathered

Let in is whoever finds anything left of every hard budget that it is under once what runs now has cost its worst; so a
budget is passed by less than what one call may cost, however many gateways there are. Quotas are asked in the same
step. Who held room and is not heard of again loses it after spending.SLOT_MS. Asynchronous calls hold theirs when they
go to an invoker (durable/later.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.budgets import plan as plans
from gateway.budgets.budget import Budget, period
from gateway.budgets.plan import Plan
from gateway.budgets.quota import Quota
from gateway.budgets.store import BudgetStore, Spent
from gateway.catalog import Function
from gateway.ledger.prices import PriceBook
from gateway.loops import Loop
from gateway.outbox import Outbox
from jiffy.contract import limits, spending
from jiffy.contract.errors import BudgetExceeded, JiffyError, Throttled
from jiffy.contract.messages import Revision
from jiffy.contract.spending import Hold

LOOK_S = 0.25
IN_FORCE_MS = 600  # after a budget was set: by then every gateway has looked twice
RETRY_AFTER_S = 1.0
SYNC_SLACK_MS = 2000  # past the deadline: a completion that waits for Redis

Admitted = Callable[[JiffyError | None], None]  # told once; None: it may run


class State(StrEnum):
    """How a budget stands."""

    OK = "ok"
    CLOSE = "close"  # warn_at per cent are spent
    USED_UP = "used up"


class View(NamedTuple):
    """One budget as it stands."""

    budget: Budget
    spent: Spent
    ends: str
    counters: str

    @property
    def state(self) -> State:
        if self.spent.spent >= self.budget.limit:
            return State.USED_UP
        return State.CLOSE if self.spent.spent * 100 >= self.budget.limit * self.budget.warn_at else State.OK


class Guard:
    """`hear` is told each look's views."""

    def __init__(self, store: BudgetStore, book: Callable[[], PriceBook], now_ms: Callable[[], int]) -> None:
        self.active = False  # is there any budget or quota? The hot path asks nothing else
        self.hear: Callable[[Sequence[View]], None] = lambda views: None
        self._store = store
        self._book = book
        self._now_ms = now_ms
        self._known: tuple[tuple[Budget, ...], tuple[Quota, ...], PriceBook | None] = ((), (), None)
        self._budgets: tuple[Budget, ...] = ()  # of the known ones, those in force
        self._renew_ms = 0
        self._plans: dict[tuple[str, str, int], Plan | None] = {}
        self._close: tuple[Budget, ...] = ()
        self._spent: dict[str, Spent] = {}
        self._outgoing: Outbox[tuple[Hold, Plan, Admitted]] = Outbox()

    def loops(self) -> tuple[Loop, ...]:
        return self._watch, self._send

    def give_up(self) -> None:
        """Tell all who still wait, once the loops have ended."""
        for _, _, admitted in self._outgoing.clear():
            admitted(Throttled("this gateway is stopping", retry_after_s=RETRY_AFTER_S))

    # --- what there is --------------------------------------------------------------------------------------

    async def look(self) -> list[View]:
        """Take in budgets, prices and counters as they are now. Raises Unavailable."""
        known = (*await self._store.all(), self._book())
        if known != self._known:
            self._known = known
            self._renew()
        views = await self.views(self._known[0], self._now_ms())
        self._spent = {view.counters: view.spent for view in views}
        self._close = tuple(view.budget for view in views if view.state is not State.OK)
        return views

    def _renew(self) -> None:
        """Forget all plans: there are other budgets, quotas or prices, one has come into force, a day has begun."""
        now_ms, every = self._now_ms(), self._known[0]
        self._budgets = tuple(budget for budget in every if budget.since_ms <= now_ms)
        self._plans = {}
        to_come = [budget.since_ms for budget in every if budget.since_ms > now_ms]
        self._renew_ms = min([period("day", now_ms).ends_ms, *to_come])
        self.active = bool(every or self._known[1])

    async def views(self, budgets: Sequence[Budget], now_ms: int) -> list[View]:
        """How these budgets stand. Raises Unavailable."""
        periods = [period(budget.per, now_ms) for budget in budgets]
        counters = [budget.counters(one) for budget, one in zip(budgets, periods, strict=True)]
        spent = await self._store.spent(counters, now_ms)
        return [
            View(budget, found, one.ends, key)
            for budget, found, one, key in zip(budgets, spent, periods, counters, strict=True)
        ]

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(JiffyError):  # Redis is gone for now: nothing can be run either
                self.hear(await self.look())
            await asyncio.sleep(LOOK_S)

    # --- what a call is under -------------------------------------------------------------------------------

    def plan(self, revision: Revision) -> Plan | None:
        """What calls of this revision spend of; None: of nothing."""
        if not self.active:
            return None
        if self._now_ms() >= self._renew_ms:
            self._renew()
        key = revision.tenant, revision.function, revision.number
        try:
            plan = self._plans[key]
        except KeyError:
            plan = self._plans[key] = plans.make(revision, self._budgets, self._known[1], self._book(), self._now_ms())
        return plan

    def sync_hold(self, plan: Plan, now_ms: int) -> Hold:
        return plan.hold(now_ms + int(limits.WAIT_MAX_S * 1000) + plan.timeout_ms + SYNC_SLACK_MS)

    def async_hold(self, plan: Plan, now_ms: int) -> Hold:
        return plan.hold(now_ms + spending.ASYNC_HOLD_MS)

    def check(self, function: Function) -> None:
        """Raises BudgetExceeded when the last look found a hard budget used up."""
        plan = self.plan(function.revision)
        if plan is not None and (error := self._exceeded(plan)):
            raise error

    def warning(self, function: Function) -> bytes:
        """The names of the budgets that are close or used up, for a header; b"" in nearly all cases."""
        return ", ".join(one.name for one in self._close if one.covers(function.revision)).encode()

    # --- letting in -----------------------------------------------------------------------------------------

    def reserve(self, plan: Plan, hold: Hold, admitted: Admitted) -> None:
        """Let a call in; `admitted` hears BudgetExceeded, Throttled (quota, room held by others), Unavailable."""
        if error := self._exceeded(plan):
            admitted(error)
            return
        self._outgoing.add((hold, plan, admitted))

    async def reserved(self, plan: Plan, hold: Hold) -> None:
        """The same for who can wait. Raises what `reserve` tells."""
        future: asyncio.Future[JiffyError | None] = asyncio.get_running_loop().create_future()

        def admitted(error: JiffyError | None) -> None:
            if not future.done():
                future.set_result(error)

        self.reserve(plan, hold, admitted)
        if error := await future:
            raise error

    async def try_all(self, wanted: Sequence[tuple[Plan, Hold]]) -> list[JiffyError | None]:
        """Let many calls in at once; None for each that may run. Raises Unavailable."""
        batch = [plan.asked(hold) for plan, hold in wanted]
        results = await self._store.reserve(batch, self._now_ms()) if batch else []
        return [self._refusal(plan, *result) for (plan, _), result in zip(wanted, results, strict=True)]

    async def release(self, hold: Hold) -> None:
        """Give back what was held for a call that is not run. Raises Unavailable; it then comes back by itself."""
        await self._store.release(hold)

    async def _send(self) -> None:
        while True:
            batch = await self._outgoing.take()
            try:
                results = await self._store.reserve([plan.asked(hold) for hold, plan, _ in batch], self._now_ms())
            except JiffyError as exc:
                for _, _, admitted in batch:
                    admitted(exc)
                continue
            except asyncio.CancelledError:
                self._outgoing.put_back(batch)
                raise
            for (_, plan, admitted), result in zip(batch, results, strict=True):
                admitted(self._refusal(plan, *result))

    def _refusal(self, plan: Plan, result: int, wait_us: int) -> JiffyError | None:
        if result > len(plan.keys):
            return _over(plan, result - len(plan.keys) - 1, wait_us)
        budget = plan.strict[abs(result) - 1] if result else None
        if budget is None:
            return None
        if result > 0:
            self._spent[plan.keys[result - 1]] = Spent(budget.limit, 0)  # until the next look: ask Redis no more
            return self._used_up(budget)
        return Throttled(
            f"what is left of the {budget.text} is held by calls that run; try again in a moment",
            retry_after_s=RETRY_AFTER_S,
        )

    def _exceeded(self, plan: Plan) -> BudgetExceeded | None:
        for key, budget in zip(plan.keys, plan.strict, strict=True):
            if budget and (spent := self._spent.get(key)) and spent.spent >= budget.limit:
                return self._used_up(budget)
        return None

    def _used_up(self, budget: Budget) -> BudgetExceeded:
        now_ms = self._now_ms()
        now = period(budget.per, now_ms)
        return BudgetExceeded(
            f"the {budget.text} is used up: calls are refused until {now.ends}",
            retry_after_s=max(1.0, (now.ends_ms - now_ms) / 1000),
        )


def _over(plan: Plan, n: int, wait_us: int) -> Throttled:
    """What the n-th of a plan's rates and places tells."""
    if n < len(plan.rates):
        quota = plan.rates[n]
        text = f"the {quota.text} allows {quota.rate:g} calls a second, {quota.burst} at once"
        return Throttled(text, retry_after_s=max(0.001, wait_us / 1_000_000))
    quota = plan.places[n - len(plan.rates)]
    text = f"the {quota.text} allows {quota.concurrency} calls at the same time, and so many run or wait"
    return Throttled(text, retry_after_s=RETRY_AFTER_S)
