"""A data folder with a base layer, and the drivers over it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from builder.runtimes.python import base
from invoker.drivers import DriverConfig, choose
from jiffy.contract.errors import Unavailable
from jiffy.contract.limits import MIB
from jiffy.contract.messages import Layer
from tests.conftest import need

from .house import House
from .lab import Lab
from .onehost import OneHost

SCRATCH_BYTES = 16 * MIB  # small, so that a test can fill it
PIDS_MAX = 64


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Layer]:
    """A data folder that sandboxes' users may enter, and the base layer in it."""
    data = tmp_path_factory.mktemp("platform")
    for made in (data, data.parent, data.parent.parent):  # pytest makes its folders 0700
        if "pytest" in made.name:
            made.chmod(0o755)
    return data, base.ensure(data)


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "bwrap", "nursery"])
async def lab(request: pytest.FixtureRequest, platform: tuple[Path, Layer]) -> AsyncIterator[Lab]:
    """The same for both drivers, and for bubblewrap's stems that a nursery bears."""
    data, layer = platform
    runtime = os.environ.get("JIFFY_TEST_OCI_RUNTIME", "")  # such as runsc, where the engine knows it
    config = DriverConfig(data, f"test-{os.getpid()}", runtime, scratch_bytes=SCRATCH_BYTES, pids_max=PIDS_MAX)
    try:
        driver = await choose("docker" if request.param == "docker" else "bwrap", config)
    except Unavailable as exc:
        need(exc.message)
        raise
    lab = Lab(driver, data, layer, tenant="acme" if request.param == "nursery" else "")
    try:
        yield lab
    finally:
        await lab.close()
        await driver.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.pool.close()
    assert all(sandbox.closed for sandbox in house.world.sandboxes), "no sandbox outlives its pool"


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[OneHost]:
    host = OneHost(redis_url)
    await host.start()
    yield host
    await host.stop()
    await host.redis.aclose()
