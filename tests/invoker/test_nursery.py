"""Stems that a nursery bears: whose they are, what they share, and how they end. Their walls: test_walls.py."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from invoker.drivers import DriverConfig, choose
from invoker.drivers.nursery import FAILURES_MAX, FILE, NURSERIES_MAX, Nurseries, Nursery
from invoker.sandbox import Sandbox
from jiffy.contract.errors import SandboxFailed, Unavailable
from jiffy.contract.messages import Layer
from tests.conftest import need

from .lab import Lab, result

LOOK = """
import ctypes, os, sys
def handler(event, context):
    libc = ctypes.CDLL(None)
    return {"hash": hash("x"), "libc": ctypes.cast(libc.getpid, ctypes.c_void_p).value, "random": os.urandom(8).hex(),
            "modules": sorted(sys.modules), "env": sorted(os.environ), "files": os.listdir("/proc/self/fd"),
            "mounts": [line.split()[1:4] for line in open("/proc/self/mounts")]}
"""


@pytest.fixture
async def bwrap(platform: tuple[Path, Layer]) -> AsyncIterator[Lab]:
    data, layer = platform
    try:
        driver = await choose("bwrap", DriverConfig(data, f"nursery-{os.getpid()}"))
    except Unavailable as exc:
        need(exc.message)
        raise
    lab = Lab(driver, data, layer)
    yield lab
    await lab.close()
    await driver.close()


async def born(lab: Lab, tenant: str) -> Sandbox:
    lab.tenant = tenant
    return await lab.stem()


def parent(sandbox: Sandbox) -> int:
    """The process of this host that bore it."""
    return int(Path(f"/proc/{sandbox._jail.pid}/stat").read_text().rpartition(")")[2].split()[1])


def namespaces(nursery: int, number: int) -> None:
    """How many it may have of processes, as if its host had no more to give."""
    write = ["nsenter", "-U", "-t", str(nursery), "sh", "-c", f"echo {number} > /proc/sys/user/max_pid_namespaces"]
    need(subprocess.run(write, capture_output=True, text=True, check=False).stderr)


async def looks(lab: Lab, sandbox: Sandbox) -> dict[str, object]:
    loaded = await sandbox.specialise(lab.revision(LOOK))
    assert loaded.error is None, loaded
    found: dict[str, object] = await result(await sandbox.fork())
    return found


async def test_what_forked_processes_share_is_one_tenants_alone(bwrap: Lab) -> None:
    stems = [await born(bwrap, tenant) for tenant in ("acme", "acme", "other", "", "")]
    assert [stem.tenant for stem in stems] == ["acme", "acme", "other", "", ""]
    one, two, *others = [await looks(bwrap, stem) for stem in stems]
    assert one["hash"] == two["hash"] and one["libc"] == two["libc"], "so much they have in common (docs/security.md)"
    assert len({found["hash"] for found in (one, *others)}) == 4, "and others never"
    assert len({found["libc"] for found in (one, *others)}) == 4
    assert len({found["random"] for found in (one, two, *others)}) == 5, "what the kernel gives is each one's own"


async def test_a_function_can_hardly_tell_how_its_sandbox_was_started(bwrap: Lab) -> None:
    by_itself, by_fork = await looks(bwrap, await born(bwrap, "")), await looks(bwrap, await born(bwrap, "acme"))
    for name in ("modules", "env"):
        assert by_fork[name] == by_itself[name], name
    assert len(by_fork["files"]) == len(by_itself["files"])  # type: ignore[arg-type]

    def places(found: dict[str, object]) -> list[tuple[str, str, bool]]:
        mounts: list[list[str]] = found["mounts"]  # type: ignore[assignment]
        return sorted((where, kind, "ro" in options.split(",")) for where, kind, options in mounts)

    assert places(by_fork) == places(by_itself)


async def test_more_open_files_than_select_knows_keep_nothing_from_starting(bwrap: Lab) -> None:
    few = (await looks(bwrap, await born(bwrap, "")))["files"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        for tenant in ("", "acme"):
            sandbox = await born(bwrap, tenant)
            assert sandbox.tenant == tenant
            files = (await looks(bwrap, sandbox))["files"]
            assert len(files) == len(few), "and nothing of theirs is open inside"  # type: ignore[arg-type]
            await sandbox.close()
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_fork_that_fails_ends_none_of_those_that_live(bwrap: Lab) -> None:
    first = await born(bwrap, "acme")
    loaded = await first.specialise(bwrap.revision(LOOK))
    assert loaded.error is None
    instance = await first.fork()
    namespaces(parent(first), 0)
    assert (await born(bwrap, "acme")).tenant == "", "what it can't bear is started by itself"
    assert (await result(instance))["modules"]
    assert (await born(bwrap, "acme")).tenant == "acme"


async def test_one_that_dies_is_done_without_and_replaced(bwrap: Lab) -> None:
    for _ in range(FAILURES_MAX):  # each time: what went well in between is no sign that it can't be
        first = await born(bwrap, "acme")
        assert first.tenant == "acme"
        ended = asyncio.Event()
        first.on_closed = lambda _, ended=ended: ended.set()  # type: ignore[misc]
        os.kill(parent(first), signal.SIGKILL)
        await asyncio.wait_for(ended.wait(), 10)
        second = await born(bwrap, "acme")
        assert second.tenant == "", "the one that was asked for is started by itself"
    assert (await born(bwrap, "acme")).tenant == "acme"
    assert (await looks(bwrap, second))["modules"]


async def unborn(tree: Path, command: tuple[str, ...]) -> Nursery:
    return Nursery(0, {})


async def use(nurseries: Nurseries, tree: Path, tenant: str, *, bears: Awaitable[object] | None = None) -> Nursery:
    """`bears` ends in a failure."""
    async with nurseries.of(tree, (), tenant) as nursery:
        if bears is not None:
            await bears
            raise SandboxFailed("it bore nothing")
    return nursery


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As far as its nurseries look at it."""
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).touch()
    return tmp_path


async def test_a_failure_counts_once_and_costs_no_other_nursery(tree: Path) -> None:
    nurseries, all_there = Nurseries(unborn), asyncio.Barrier(FAILURES_MAX)
    births = [use(nurseries, tree, "acme", bears=all_there.wait()) for _ in range(FAILURES_MAX)]
    assert [str(exc) for exc in await asyncio.gather(*births, return_exceptions=True)] == ["it bore nothing"] * 3
    assert nurseries.can(tree), "all of them were one nursery's"

    async def replace() -> None:
        for n in range(NURSERIES_MAX):
            await use(nurseries, tree, f"tenant-{n}")
        successors.append(await use(nurseries, tree, "acme"))

    successors: list[Nursery] = []
    with pytest.raises(SandboxFailed):
        await use(nurseries, tree, "acme", bears=replace())
    assert await use(nurseries, tree, "acme") is successors[0], "one that had to go meanwhile takes none with it"
    await nurseries.close()


@pytest.mark.parametrize("rest_s", [3600.0, 0.0])
async def test_those_that_fail_again_and_again_rest_for_a_while(tree: Path, rest_s: float) -> None:
    nurseries = Nurseries(unborn, rest_s=rest_s)
    for _ in range(FAILURES_MAX):
        assert nurseries.can(tree)
        with pytest.raises(SandboxFailed):
            await use(nurseries, tree, "acme", bears=asyncio.sleep(0))
    assert nurseries.can(tree) is (rest_s == 0), "once the rest is over, they are tried again"
    await nurseries.close()


async def test_what_a_nursery_bore_outlives_its_retirement_and_nothing_outlives_the_driver(bwrap: Lab) -> None:
    first = await born(bwrap, "acme")
    for n in range(9):  # more tenants than there are nurseries at a time
        await born(bwrap, f"tenant-{n}")
    found = await looks(bwrap, first)
    assert found["modules"]
    pids = [sandbox._jail.pid for sandbox in bwrap.sandboxes]
    await bwrap.driver.close()
    async with asyncio.timeout(10):
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            await asyncio.sleep(0.01)
