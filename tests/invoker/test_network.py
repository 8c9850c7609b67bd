"""What a function with a network reaches, and what it must not: this host, and what the platform keeps elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from invoker.drivers import DriverConfig, choose
from invoker.drivers.base import Wish
from invoker.drivers.bridge import Bridge
from invoker.drivers.docker import LABEL
from invoker.sandbox import Instance, Sandbox
from jiffy.contract.errors import SandboxFailed, Unavailable
from jiffy.contract.messages import Layer
from tests.conftest import need
from tests.elsewhere import Host, another_host
from tests.invoker.lab import Lab, result

pytestmark = [pytest.mark.docker, pytest.mark.root]

CONNECT = """
import socket
def handler(event, context):
    try:
        socket.create_connection(event, timeout=2).close()
        return "connected"
    except OSError as exc:
        return type(exc).__name__
"""
LISTEN = """
import socket, sys, time
made = [socket.create_server(("0.0.0.0", 0)) for _ in range(2)]
print(*[one.getsockname()[1] for one in made], flush=True)
sys.stdin.read()
"""


class Elsewhere(NamedTuple):
    """Another host, with two ports on which somebody listens."""

    host: Host
    allowed: int
    queue: int


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    need("" if shutil.which("iptables") else "no iptables here")
    with another_host() as host:
        words = [*host.enter, sys.executable, "-c", LISTEN]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            yield Elsewhere(host, *map(int, server.stdout.readline().split()))
            server.communicate(timeout=20)


@pytest.fixture
async def lab(platform: tuple[Path, Layer], elsewhere: Elsewhere) -> AsyncIterator[Lab]:
    data, base = platform
    config = DriverConfig(data, f"net-{os.getpid()}", off_limits=((elsewhere.host.address, elsewhere.queue),))
    lab = Lab(await choose("docker", config), data, base)
    yield lab
    await lab.close()
    await lab.driver.close()
    assert not rules(config.invoker)


def rules(invoker: str) -> list[str]:
    """Those of an invoker's bridge."""
    found = subprocess.run(["iptables", "-w", "5", "-S"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if Bridge((LABEL, invoker), ()).name in line]


async def networked(lab: Lab) -> Instance:
    sandbox = await Sandbox.start(lab.driver, lab.data, lab.base_runtime, lab.base, Wish(network=True))
    lab.sandboxes.append(sandbox)
    await sandbox.specialise(lab.revision(CONNECT, network=True))
    return await sandbox.fork()


def break_iptables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = folder / "tools"
    tools.mkdir()
    (tools / "iptables").write_text("#!/bin/sh\necho Permission denied >&2\nexit 4\n")
    (tools / "iptables").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


async def test_a_function_reaches_the_world_and_nothing_of_the_platform(lab: Lab, elsewhere: Elsewhere) -> None:
    there, here = elsewhere.host.address, elsewhere.host.ours
    instance = await networked(lab)

    async def reach(host: str, port: int) -> Any:
        return await result(instance, [host, port])

    assert await reach(there, elsewhere.allowed) == "connected"
    assert await reach(there, elsewhere.queue) == "ConnectionRefusedError"
    with socket.create_server(("0.0.0.0", 0)) as own:  # as the gateway of a host listens
        port = own.getsockname()[1]
        socket.create_connection((here, port), timeout=2).close()
        assert await reach(here, port) == "ConnectionRefusedError"
        assert await reach("172.17.0.1", port) == "ConnectionRefusedError"
    for metadata in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"):
        assert await reach(metadata, 80) == "ConnectionRefusedError"


async def test_a_firewall_that_was_flushed_is_put_up_again_before_the_next_start(
    lab: Lab, elsewhere: Elsewhere, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours() -> list[str]:
        return sorted(rule for rule in rules(f"net-{os.getpid()}") if "REJECT" in rule)

    first = await networked(lab)
    stood = ours()
    for rule in stood:
        subprocess.run(["iptables", "-w", "5", "-D", *shlex.split(rule)[1:]], check=True)
    assert stood and not ours()
    second = await networked(lab)
    assert ours() == stood, "each of them once"
    with socket.create_server(("0.0.0.0", 0)) as own:
        for instance in (first, second):
            here = [elsewhere.host.ours, own.getsockname()[1]]
            assert await result(instance, here) == "ConnectionRefusedError"
    with monkeypatch.context() as broken:
        break_iptables(data_dir, broken)
        with pytest.raises(SandboxFailed, match=r"functions get no network, their firewall can't be set: .*denied"):
            await networked(lab)
    await networked(lab)
    assert ours() == stood, "what stands is not put up twice"


async def test_without_a_firewall_there_is_no_network(
    lab: Lab, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_iptables(data_dir, monkeypatch)
    driver = await choose("docker", DriverConfig(lab.data, f"bare-{os.getpid()}"))
    try:
        assert driver.network is False
        with pytest.raises(Unavailable, match="Permission denied"):
            await Sandbox.start(driver, lab.data, lab.base_runtime, lab.base, Wish(network=True))
    finally:
        await driver.close()
