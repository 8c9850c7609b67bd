"""The warm sandboxes of one revision: who gets which instance, and when.

Idle instances are a stack, so that the fewest stay warm; waiting calls are a queue. A frozen sandbox's instances are
not on the stack, so a lease off the stack needs no further question. Whether to start, freeze or stop is policy.py's
to say; what the host allows, and stems, come from `Host`, which pool.py is.

A call is *cold* when it waited for its function's first sandbox here to start and to import. Time waited for a fork of
a warm zygote, or for a thaw, counts as queueing.
"""

from __future__ import annotations

import logging

from jiffy.contract.messages import Revision

from . import policy
from .cold_start import STOPPING, ColdStart, Opened, fault, quietly
from .lease import Box, Caller, Host, Instance, Slot
from .refusal import Refusal, function_limit, platform, throttled
from .sleep import Sleep
from .waiting import Waiting
from .warmth import Warmth

log = logging.getLogger(__name__)


class RevisionPool:
    """See the module. `live` is False once another revision serves the function: idle instances then go soon."""

    def __init__(self, revision: Revision, host: Host) -> None:
        self.revision = revision
        self.live = True
        self.idle: list[Slot] = []
        self.waiting = Waiting(host.totals, revision.tenant)
        self.boxes: list[Box] = []
        self.running = 0
        self.starting = 0  # forks under way
        self.calls = 0
        self.cold_calls = 0
        self.waited_us = 0
        self.usual_us = 0.0  # how long its handler takes
        self.floor = 0  # instances that are kept ready
        self._host = host
        self._calls_max = revision.calls_max
        self._last: Slot | None = None  # which began last
        self.warmth = Warmth((revision.tenant, revision.function, revision.number), host.keepalive)
        self._begun_us = self._first_us = 0  # when calls began here: the last, and the first
        self._cold: ColdStart | None = None  # the one that is under way
        self._sleep = Sleep(host, self._woken)
        self._fork_again_us = 0
        self._failures = 0
        self._limit = ""  # what kept another instance from starting, the last time one was wanted

    def serve(self, live: bool) -> None:
        """Is this revision the function's, from now on? Only then anything is kept ready."""
        self.live = live
        self.floor = self.revision.min_instances if live else 0

    # --- the hot path -----------------------------------------------------------------------------------------
    def lease(self, caller: Caller, now_us: int) -> None:
        """Start `caller` on an idle instance, now or when there is one."""
        if caller.latest_start_us < now_us:
            caller.refuse(self._throttled("it waited in the queue for longer than a call may"))
        elif self.idle and now_us <= self._host.until_us:
            self._run(self.idle.pop(), caller, now_us)
        elif self.waiting.full(caller):
            why = f"{len(self.waiting)} of its calls wait for an instance already, and no more may (waiting)"
            caller.refuse(self._throttled(why))
        else:
            self.waiting.append(caller)
            self._host.hungry(self)
            self.scale(now_us)
            if self._host.closing:
                self.drain()

    def release(self, slot: Slot, now_us: int, duration_us: int) -> None:
        """The call on `slot` has ended and its instance lives; its handler took `duration_us`."""
        self._returned(slot, now_us, duration_us)
        if slot.dead:
            return
        if self._host.room.short and self.waiting and self._host.room.gives_way(self.revision):
            self._host.figures.decisions["give_way"] += 1
            self.discard(slot)
        elif self._calls_max and slot.instance.calls >= self._calls_max:
            self.discard(slot)
            self.refill(now_us, max(1, self.floor))
        elif not self._serve(slot, now_us):
            slot.since_us = now_us
            self.idle.append(slot)

    def lost(self, slot: Slot) -> None:
        """The instance of `slot` is gone, at work or idle. Saying so twice is harmless."""
        now_us = self._host.now()
        if slot.busy:
            self._returned(slot, now_us, now_us - slot.since_us)
        if not slot.dead:
            slot.dead = True
            slot.box.instances -= 1
            self._host.ended(self)
            if slot in self.idle:
                self.idle.remove(slot)
            elif slot.box.asleep is not None and slot in slot.box.asleep:
                slot.box.asleep.remove(slot)
        self.scale(now_us)

    def discard(self, slot: Slot) -> None:
        """As lost, and end it."""
        self._host.spawn(quietly(slot.instance.close()))
        self.lost(slot)

    def _returned(self, slot: Slot, now_us: int, duration_us: int) -> None:
        self.usual_us = policy.learned(self.usual_us, duration_us)
        slot.busy = False
        self.running -= 1
        slot.box.busy -= 1
        slot.box.last_used_us = now_us

    def _run(self, slot: Slot, caller: Caller, now_us: int) -> None:
        slot.busy = True
        self._last = slot
        slot.since_us = self._begun_us = now_us
        self._first_us = self._first_us or now_us
        slot.box.busy += 1
        self.running += 1
        self.calls += 1
        self.cold_calls += caller.cold
        caller.start(slot, now_us)

    def _serve(self, slot: Slot, now_us: int) -> bool:
        """Run the first waiting call that may still begin; False when there is none."""
        while self.waiting and now_us <= self._host.until_us:
            caller = self.waiting.pop()
            if caller.latest_start_us >= now_us:
                waited_us = max(0, now_us - caller.arrived_us)
                self.waited_us += waited_us
                self._host.figures.waited(waited_us)
                self._run(slot, caller, now_us)
                return True
            caller.refuse(self._late())
        return False

    # --- refusing ---------------------------------------------------------------------------------------------
    def _throttled(self, why: str) -> Refusal:
        usual_us = max(self.usual_us, self._host.now() - self._begun_us if self.running else 0)
        self._host.figures.decisions["throttle"] += 1
        after_s = policy.retry_after_s(len(self.waiting) + 1, self.instances, usual_us)
        return throttled(self.revision.function, why, after_s)

    def _late(self) -> Refusal:
        if self._cold and (refusal := self._cold.late()):
            return refusal
        if self._cold and not self.boxes:
            return self._throttled("its sandbox did not start in time: the host is overloaded, or its engine hangs")
        return self._throttled(self._limit or f"none of its {self.instances} instances was free in time")

    # --- growing ----------------------------------------------------------------------------------------------
    @property
    def instances(self) -> int:
        return sum(box.instances for box in self.boxes)

    def scale(self, now_us: int, *, look_for_stall: bool = False) -> None:
        """Start what the waiting calls justify: wake a frozen sandbox, open the first one, or fork."""
        if not self.waiting or self._cold or self._sleep.waking or self._host.closing or now_us > self._host.until_us:
            return
        for box in self.boxes:
            if box.asleep is not None:
                if not box.changing:
                    self._sleep.wake(box)
                return
        if not self.boxes:
            self._limit = self._host.admit(self)
            if not self._limit:
                self._open(now_us)
            return
        if now_us >= self._fork_again_us:
            self._fork_more(now_us, self._stalled_us(now_us) if look_for_stall else 0)

    def _stalled_us(self, now_us: int) -> int:
        """For how long no call has begun, because those that run take their time."""
        stalled_us = now_us - max(self._begun_us, self.waiting.first.arrived_us)
        starved = stalled_us >= policy.STALL_US and self._last is not None and self._last.starved()
        return 0 if starved else stalled_us

    def _fork_more(self, now_us: int, stalled_us: int) -> None:
        there = self.running + len(self.idle)
        limit = self.revision.max_instances
        self._limit = function_limit(limit) if there + self.starting >= limit else ""
        usual_us = policy.ANEW_US if self._calls_max == 1 else self.usual_us
        if not usual_us and self._last is not None and not self._last.starved():
            usual_us = policy.so_far(now_us - self._first_us)
        self._add(policy.wanted(len(self.waiting), there, self.starting, usual_us, stalled_us, limit), now_us)

    def _add(self, count: int, now_us: int) -> None:
        """Start `count` instances beside those there are, or as many as the host admits."""
        for _ in range(count):
            self._limit = self._host.admit(self)
            if self._limit:
                return
            fertile = [box for box in self.boxes if box.fertile and box.asleep is None]
            box = min(fertile, key=lambda box: box.instances, default=None)
            if box is None:
                self._open(now_us)
                return
            self.starting += 1
            box.instances += 1
            self._host.figures.decisions["fork"] += 1
            self._host.spawn(self._fork(box))

    def refill(self, now_us: int, floor: int) -> None:
        """Start what is missing of `floor` instances, called or not; a sandbox that sleeps is woken for it first."""
        if not self.live or self._cold or self._sleep.waking or self._host.closing or now_us < self._fork_again_us:
            return
        missing = policy.short_of(self.instances, self.starting, floor)
        if floor > 1:  # others must find room, too, however much is to be kept ready
            missing = min(missing, self._host.room.keepable)
        asleep = next((box for box in self.boxes if box.fertile and box.asleep is not None), None)
        if missing and asleep is None:
            self._add(missing, now_us)
        elif missing and asleep is not None and not asleep.changing:
            self._sleep.wake(asleep)

    async def _fork(self, box: Box) -> None:
        try:
            instance = await box.sandbox.fork()
        except Exception as exc:  # whatever it is: what was counted in must be counted out
            log.warning("no further instance of %s: %s", self.revision.function, exc, exc_info=fault(exc))
            self._fork_again_us = self._host.now() + policy.FORK_PAUSE_US
            box.instances -= 1
            box.failed_forks += 1
            self._host.ended(self)
            if not box.instances:
                self._end(box)
        else:
            box.failed_forks = 0
            self._joined(box, instance)
        finally:
            self.starting -= 1
        self._grow()

    def _grow(self) -> None:
        now_us = self._host.now()
        self.scale(now_us)
        self.refill(now_us, self.floor)

    def _joined(self, box: Box, instance: Instance) -> None:
        """A new instance, already counted, takes its first call."""
        now_us = self._host.now()
        slot = Slot(instance, box, self, now_us)
        instance.on_exit = slot.exited
        if box.closed:
            self.discard(slot)
        elif not self._serve(slot, now_us):
            self.idle.append(slot)

    # --- a cold start -----------------------------------------------------------------------------------------
    def _open(self, now_us: int) -> None:
        """One more sandbox; its first instance is admitted already."""
        self._host.figures.decisions["open"] += 1
        self._cold = ColdStart(self.revision, self._host, self._box_closed)
        self._host.spawn(self._opening(self._cold, now_us))

    async def _opening(self, cold: ColdStart, begun_us: int) -> None:
        came = await cold.run()
        self._cold = None
        if isinstance(came, Opened):
            self._failures = self._fork_again_us = 0
            self._host.figures.opened(came.phases)
            self.warmth.init_us = sum(came.phases[1:])
            if not self.boxes:
                self.waiting.mark_cold(self._host.now(), begun_us, came.log)
            self.boxes.append(came.box)
            self._joined(came.box, came.instance)
        else:
            self._host.ended(self)
            self._failed_open(came, begun_us)
        self._grow()

    def _failed_open(self, refusal: Refusal, begun_us: int) -> None:
        """Everyone who waited gets the same error: a sandbox for each would only fail as often.

        Where other sandboxes of this revision serve, the calls wait on for those.
        """
        self._failures += 1
        self._fork_again_us = self._host.now() + int(policy.backoff_s(self._failures) * policy.SECOND_US)
        if self.boxes:
            return
        self.calls += len(self.waiting)
        self.cold_calls += len(self.waiting)
        self.waiting.refuse_all(refusal, self._host.now(), begun_us)

    # --- sleeping, waking, ending -------------------------------------------------------------------------------
    @property
    def awake(self) -> bool:
        """May time end anything soon? Frozen sandboxes can wait a little."""
        return bool(self.waiting or self._cold or any(box.asleep is None for box in self.boxes))

    @property
    def empty(self) -> bool:
        return not (self.boxes or self.running or self.awake or self.floor or self.warmth.returning)

    def tick(self, now_us: int) -> None:
        """Do what time alone calls for."""
        for caller in self.waiting.late(now_us):
            caller.refuse(self._late())
        self.scale(now_us)
        self.warmth.hear(self.calls, self._begun_us)
        self.refill(now_us, max(self.floor, self.warmth.returns(now_us)))
        keep = self._host.keep
        for box in list(self.boxes):
            slots = [slot for slot in (self.idle if box.asleep is None else box.asleep) if slot.box is box]
            if box.changing:
                continue
            spent = [one for one in slots if policy.instance_expired(now_us, one.since_us, self.live, keep)][
                : self._spare
            ]
            if spent:
                self._host.figures.decisions["expire"] += len(spent)
            active = box.instances - len(slots)  # busy, or being forked
            if self._leaves(box, len(spent), now_us):
                self._end(box)
            elif box.asleep is None:
                for slot in spent:
                    self.discard(slot)
                if policy.freeze_due(now_us, box.last_used_us, active, keep):
                    self.warmth.asleep(box, now_us)
                    self.idle = [slot for slot in self.idle if slot.box is not box]
                    self._sleep.freeze(box, [slot for slot in slots if not slot.dead])
            elif spent:
                self._sleep.thin(box, spent)

    def _leaves(self, box: Box, spent: int, now_us: int) -> bool:
        """Is it time for this sandbox to go? One that is of no use any more: soon; else the policy says."""
        if not self.live or box.barren:
            return policy.stale(now_us, box.last_used_us, box.instances - spent)
        return box.asleep is not None and box.instances <= self._spare and self.warmth.leaves(now_us)

    def _woken(self, slots: list[Slot], now_us: int) -> None:
        for slot in slots:
            if not self._serve(slot, now_us):
                self.idle.append(slot)
        self.scale(now_us)

    @property
    def _spare(self) -> int:
        """How many instances there are beyond those that are always kept."""
        return max(0, self.instances - self.floor)

    def frozen(self, instances: int = 0) -> Box | None:
        """The sleeping sandbox that was used longest ago, of those that may go and have so many instances at least."""
        asleep = [box for box in self.boxes if box.asleep is not None and not box.changing]
        may_go = [box for box in asleep if instances <= box.instances <= self._spare]
        return min(may_go, key=lambda box: box.last_used_us, default=None)

    def worth(self) -> tuple[bool, float, int] | None:
        """What its least valuable idle instance is worth, to be compared; None when it has none that may go."""
        if box := self.frozen(instances=1):
            return False, self.warmth.value, box.last_used_us
        return (True, 0.0, self.idle[0].since_us) if self.idle and self._spare else None

    def evict(self, instances: int = 1) -> None:
        """Make room for somebody else: end a whole frozen sandbox, or the least recently used idle instance."""
        self._host.figures.decisions["evict"] += 1
        if box := self.frozen(instances):
            self.warmth.evicted(box.last_used_us)
            self._end(box)
        elif self.idle and self._spare:
            self.discard(self.idle[0])

    def _end(self, box: Box) -> None:
        box.changing = True
        self._box_closed(box)
        self._host.spawn(quietly(box.sandbox.close()))

    def _box_closed(self, box: Box) -> None:
        """The sandbox is gone, whatever the reason. Calls on it are told by their instances."""
        if box.closed:
            return
        box.closed = True
        if box in self.boxes:
            self.boxes.remove(box)
        slots = [slot for slot in self.idle if slot.box is box] + (box.asleep or [])
        for slot in slots:
            self.lost(slot)
        self.scale(self._host.now())

    def drain(self) -> None:
        """Nothing new will be started: tell the calls that could only wait for that."""
        if not self.boxes and not self._cold:
            self.waiting.refuse_all(platform(STOPPING), self._host.now())

    async def close(self) -> None:
        """End every sandbox, the one that is being opened included; refuse what waits."""
        self.waiting.refuse_all(platform(STOPPING), self._host.now())
        if self._cold:
            await self._cold.cancel()
        for box in list(self.boxes):
            box.changing = True
            await quietly(box.sandbox.close())
