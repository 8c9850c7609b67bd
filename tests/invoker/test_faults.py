"""What breaks inside the invoker costs the calls that meet it, and wedges no function."""

from __future__ import annotations

import pytest

from invoker import policy
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Outcome

from .house import House


@pytest.mark.parametrize("where", ["start_error", "loading", "fork_error"])
async def test_a_fault_of_our_own_fails_the_call_and_wedges_nothing(house: House, where: str) -> None:
    healthy = getattr(house.world, where)
    setattr(house.world, where, KeyError("layers"))
    [caller] = await house.calls(1)
    assert caller.refusal is not None and caller.refusal.outcome is Outcome.PLATFORM
    assert house.world.starts <= 4 and house.pool.instances == 0 and not house.world.used
    setattr(house.world, where, healthy)
    [caller] = await house.calls(1)
    assert caller.slot is not None


async def test_a_fault_while_forking_costs_one_instance_only(house: House) -> None:
    [busy] = await house.calls(1)
    house.world.fork_error = KeyError("cell")
    [waiting] = await house.calls(1)
    assert house.pool.instances == 1 and waiting.slot is None
    busy.end()
    assert waiting.slot is not None


async def test_a_zygote_that_forks_no_more_is_replaced(house: House) -> None:
    [first] = await house.calls(1)
    first.end()
    [broken] = house.world.used
    broken.fork_error = SandboxFailed("no such process")
    broken.instances[0].die()
    [second] = await house.calls(1)
    assert second.slot is not None and broken.closed


async def test_a_zygote_that_forks_no_more_keeps_its_running_calls(house: House) -> None:
    [running] = await house.calls(1)
    [broken] = house.world.used
    broken.fork_error = SandboxFailed("no such process")
    waiting = house.call()
    for _ in range(policy.FORKS_FAILED_MAX + 1):
        await house.tick(1)
    assert waiting.slot is not None and not broken.closed
    running.end()
    broken.instances[0].die()
    await house.tick(3)
    assert broken.closed
