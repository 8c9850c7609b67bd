"""Starts that the function's own code breaks or draws out: who is told what, and who pays."""

from __future__ import annotations

import asyncio

from invoker.sandbox import Loaded
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Outcome

from .fakes import settle
from .house import House


async def test_what_fails_once_the_function_is_loaded_is_its_failure_tried_once_and_paid(house: House) -> None:
    """Code that breaks its own start, having computed for long: os.fork replaced, say."""

    async def importing() -> None:
        house.clock.pass_s(8)

    house.world.importing = importing
    house.world.fork_error = SandboxFailed("an instance could not be forked: no answer")
    first, second = await house.calls(2)
    assert first.refusal is not None and second.refusal is not None
    assert first.refusal.outcome is second.refusal.outcome is Outcome.ERROR
    assert b"Runtime.StartError" in first.refusal.error
    assert (first.refusal.used_us, second.refusal.used_us) == (8_000_000, 0), "it was there once"
    given = [sandbox for sandbox in house.world.sandboxes if sandbox.revision]
    assert len(given) == 1 and given[0].closed, "no second sandbox for it"
    house.world.importing = None
    [quick] = await house.calls(1)
    assert quick.refusal is not None and quick.refusal.used_us == 0, "a moment is one step"


async def test_a_call_that_a_slow_start_made_late_pays_for_it_and_the_start_is_paid_once(house: House) -> None:
    go_on = asyncio.Event()

    async def importing() -> None:
        await go_on.wait()

    house.world.importing = importing
    house.world.loading = Loaded(5, b'{"errorType": "Runtime.ImportModuleError"}', b"")
    early = house.call()
    await settle(40)
    house.clock.pass_s(6)
    later = house.call()
    await house.tick(4.5)
    assert early.refusal is not None and early.refusal.outcome is Outcome.ERROR
    assert b"still starting after 10.50 seconds" in early.refusal.error
    assert early.refusal.log.startswith(b"[ERROR] Sandbox.Timedout: the function was still starting")
    assert early.refusal.used_us == early.refusal.init_us == 10_500_000
    house.clock.pass_s(2)
    go_on.set()
    await settle(40)
    assert later.refusal is not None and later.refusal.used_us == 2_000_000
