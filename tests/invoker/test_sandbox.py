"""Where a sandbox's life meets the host: an invoker that is killed, or is not root, or has no engine."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from invoker import sandbox as sandboxes
from invoker.drivers import DriverConfig, choose
from invoker.drivers.base import Folder, Uids, Wish
from invoker.sandbox import MOVES, Sandbox, State
from invoker.staging import link_tree, mounted_below
from jiffy.contract import layout
from jiffy.contract.errors import SandboxFailed, Unavailable
from jiffy.contract.messages import Layer
from jiffy.contract.walls import UID_FIRST
from tests.conftest import need

from .lab import Lab, call, ended, error, result

NOBODY = 65534
# docker's client leaves a socket that could not connect to the garbage collector: each test collects its own
DOCKERS_SOCKETS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ORPHAN = """
import asyncio, json, sys
from pathlib import Path
from invoker.drivers import DriverConfig, choose
from jiffy.contract.messages import Layer
from tests.invoker.lab import Lab
async def main():
    kind, data, layer = sys.argv[1], Path(sys.argv[2]), Layer(*json.loads(sys.argv[3]))
    tenant = "acme" if kind == "nursery" else ""
    kind = "docker" if kind == "docker" else "bwrap"
    lab = Lab(await choose(kind, DriverConfig(data, sys.argv[4])), data, layer, tenant)
    instance = await lab.instance("import subprocess, sys, time\\n"
        "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])\\n"
        "def handler(event, context):\\n    time.sleep(600)\\n")
    stem = await lab.stem()
    instance.call({"id": "1"}, b"null", 600)
    print(json.dumps([instance.pid, instance.sandbox._jail.pid, stem._jail.pid]), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""

AS_NOBODY = f"""
import asyncio, json, os, sys
from pathlib import Path
from jiffy.contract.messages import Layer
from tests.invoker.test_sandbox import unprivileged
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
print(json.dumps(asyncio.run(unprivileged(Path(sys.argv[1]), Layer(*json.loads(sys.argv[2]))))))
"""


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "bwrap", "nursery"])
async def test_a_killed_invoker_leaves_no_process_and_the_next_one_finds_nothing(
    platform: tuple[Path, Layer], kind: str
) -> None:
    data, layer = platform
    name = f"orphan-{os.getpid()}"  # others may run this test on this host, too
    command = [sys.executable, "-c", ORPHAN, kind, str(data), json.dumps(layer), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    with process.stdout:
        try:
            pids = json.loads(await asyncio.to_thread(process.stdout.readline))
            assert all(_alive(pid) for pid in pids)
        finally:
            process.kill()
            process.wait()
    async with asyncio.timeout(10):
        while any(_alive(pid) for pid in pids):
            await asyncio.sleep(0.02)
    if kind != "docker":
        assert mounted_below(data) == []
    driver = await choose("docker" if kind == "docker" else "bwrap", DriverConfig(data, name))
    try:
        assert {p.name for p in (data / "run" / f"invoker-{name}").iterdir()} == {".staged"}
        lab = Lab(driver, data, layer)
        assert await result(await lab.instance("def handler(event, context):\n    return event\n"), 1) == 1
        await lab.close()
    finally:
        await driver.close()
    assert mounted_below(data) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"**/jiffy-{name}"))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _unprivileged(lab: Lab) -> list[Any]:
    """What holds without root: no cgroups, no mounts, all walls."""
    code = """
import os, subprocess, sys, time
STAY = 'import os, time; os.fork() or os.setsid(); time.sleep(600)'
def handler(event, context):
    if event == 'stay':
        subprocess.Popen([sys.executable, '-I', '-S', '-c', STAY], start_new_session=True)
    if event == 'hang':
        time.sleep(600)
    if event == 'eat':
        return len(bytearray(500 << 20))
    if event == 'write':
        open('/var/task/app.py', 'w')
    return sum(name.isdigit() for name in os.listdir('/proc'))
"""
    sandbox = await lab.sandbox(code)
    one, two, witness = await sandbox.fork(), await sandbox.fork(), await sandbox.fork()
    found: list[Any] = [await result(witness)]
    found.append((await error(one, "eat"))["errorType"])
    found.append((await error(one, "write"))["errorType"])
    found.append((await ended(two, "hang", 0.3)).reason)
    await call(one, "stay")
    await one.close()
    async with asyncio.timeout(5):
        while await result(witness) != 2:
            await asyncio.sleep(0.01)
    await sandbox.freeze()
    found += [sandbox.state.value, witness.max_memory_bytes() > 1 << 20, witness.cpu_us() >= 0]
    return found


async def unprivileged(data: Path, layer: Layer) -> list[Any]:
    driver = await choose("bwrap", DriverConfig(data, f"nobody-{os.getpid()}"))
    lab = Lab(driver, data, layer)
    try:
        found = await _unprivileged(lab)
        lab.tenant = "acme"
        stem = await lab.stem()
        assert stem.tenant == "acme", "a nursery needs no root either"
        assert await _unprivileged(lab) == found
        return found
    finally:
        await lab.close()
        await driver.close()


@pytest.mark.root  # to become somebody who is not
async def test_bubblewrap_needs_no_root(platform: tuple[Path, Layer], tmp_path: Path) -> None:
    data, layer = platform
    mine = data.parent / "nobodys"
    source = layout.layer(data, layer.digest)
    await asyncio.to_thread(shutil.copytree, source, layout.layer(mine, layer.digest), symlinks=True)
    for path in (mine, *mine.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)

    command = [sys.executable, "-c", AS_NOBODY, str(mine), json.dumps(layer)]
    ran = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [4, "MemoryError", "OSError", "timeout", "ready", True, True]
    assert list((mine / "run").iterdir()) == []


async def test_a_stem_that_nobody_waits_for_makes_way_until_it_has_a_function(lab: Lab) -> None:
    wish = Wish(tenant=lab.tenant, awaited=False)
    sandbox = await Sandbox.start(lab.driver, lab.data, lab.base_runtime, lab.base, wish)
    lab.sandboxes.append(sandbox)
    if sandbox._group is None:
        need("no control groups that can be written")
    assert sandbox._group is not None
    folder = sandbox._group._folders["cpu"]
    weight = next(path for name in ("cpu.weight", "cpu.shares") if (path := folder / name).exists())
    aside = int(weight.read_text())
    await sandbox.specialise(lab.revision("def handler(event, context):\n    return 1\n", memory_mb=1769))
    assert aside * 10 < int(weight.read_text())


async def test_an_unknown_driver_is_a_mistake_of_ours(data_dir: Path) -> None:
    with pytest.raises(ValueError, match="podman"):
        await choose("podman", DriverConfig(data_dir, "x"))


@DOCKERS_SOCKETS
async def test_without_an_engine_auto_takes_bubblewrap(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{data_dir}/nothing.sock")
    with pytest.raises(Unavailable, match="no Docker engine answers"):
        await choose("docker", DriverConfig(data_dir, "x"))
    driver = await choose("auto", DriverConfig(data_dir, "x"))
    assert driver.name == "bwrap"
    await driver.close()
    gc.collect()


@DOCKERS_SOCKETS
async def test_an_engine_that_hangs_is_no_engine(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoker.drivers.docker.PING_MAX_S", 0.2)
    with socket.socket(socket.AF_UNIX) as deaf:  # the kernel takes its connections, nobody reads them
        deaf.bind(str(data_dir / "deaf.sock"))
        deaf.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{data_dir}/deaf.sock")
        with pytest.raises(Unavailable, match="no Docker engine answers"):
            await choose("docker", DriverConfig(data_dir, "x"))
        gc.collect()


def test_every_state_has_its_moves_and_closed_is_the_last() -> None:
    assert set(MOVES) == set(State)
    assert MOVES[State.CLOSED] == frozenset()
    assert all(State.CLOSED in moves for state, moves in MOVES.items() if state is not State.CLOSED)


def test_users_are_not_shared_between_sandboxes() -> None:
    uids = Uids("a")
    first, second = uids.take(), uids.take()
    assert first != second and min(first, second) >= UID_FIRST and max(first, second) < 2**31
    uids.give_back(first)
    assert uids.take() == first
    assert Uids("b").take() != Uids("a").take()


def test_a_socket_may_lie_deeper_than_its_address_allows(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ("x" * 120), "id")
    with folder.listen() as listener, folder.connect():
        listener.accept()[0].close()


def test_linked_trees_are_the_same_files(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a").mkdir(parents=True)
    target.mkdir()
    (source / "a" / "file").write_text("text")
    (source / "link").symlink_to("a/file")
    link_tree(source, target)
    assert (target / "a/file").samefile(source / "a/file")
    assert os.readlink(target / "link") == "a/file"


def test_the_command_isolates_the_interpreter() -> None:
    command = sandboxes.command("python3.11")
    assert command[0] == "/usr/local/bin/python3.11"
    assert {"-I", "-S", "-B"} <= set(command)


class BrokenJail:
    """A jail whose agent takes `lives` more connections, each of which is closed at once."""

    group = None
    pid = 0
    tenant = ""

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.peers: list[socket.socket] = []

    def connect(self) -> socket.socket:
        if not self.lives:
            raise ConnectionRefusedError
        self.lives -= 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        if self.lives:
            self.peers.append(theirs)  # the log's: what we say on it goes out
        else:
            theirs.close()
        return ours


@pytest.mark.parametrize(("lives", "logs"), [(0, False), (1, False), (2, False), (0, True), (1, True)])
async def test_a_fork_that_fails_halfway_leaves_nothing_open(lives: int, logs: bool, tmp_path: Path) -> None:
    jail = BrokenJail(lives)
    sandbox = Sandbox(jail, "s-1", tmp_path, "python3.11", network=False)  # type: ignore[arg-type]
    sandbox.state, sandbox._takes_logs = State.READY, logs
    before = _open_files()
    for _ in range(3):
        jail.lives = lives
        with pytest.raises(SandboxFailed):
            await sandbox.fork()
    for peer in jail.peers:
        peer.close()
    assert _open_files() == before and not sandbox.instances


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
