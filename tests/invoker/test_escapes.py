"""Attempts to get out, to harm a neighbour or to run unbilled, on each driver. What walls merely look like from inside
is test_walls.py's; here each test is an attack that once worked, or that its author expected to.
"""

from __future__ import annotations

import asyncio

import pytest

from invoker.cgroups import LEFT_BYTES
from invoker.sandbox import State
from jiffy.contract.limits import MIB

from .lab import Lab, call, ended, result


async def test_what_the_agent_needs_cannot_be_replaced_under_it(lab: Lab) -> None:
    code = """
import os, time
clock, spin = time.monotonic_ns, time.monotonic
def hang():
    os.fork = None
    time.sleep(600)
os.fork = os.waitpid = os._exit = os.kill = hang
time.monotonic_ns = lambda: 0
def handler(event, context):
    began = spin()
    while spin() - began < 0.3:
        pass
    return clock() > 0
"""
    sandbox = await lab.sandbox(code)
    instance = await sandbox.fork()
    reply = await call(instance)
    assert reply[:2] == (True, b"true")
    assert reply.duration_us >= 300_000
    await instance.close()
    assert await result(await sandbox.fork()) is True


async def test_what_will_not_freeze_is_ended(lab: Lab) -> None:
    """Children that are always deep in the kernel can't be stopped, and would compute between calls, unpaid."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
SIZE = 8 << 30
def populate():
    at = libc.mmap(None, SIZE, 1, 0x2 | 0x20 | 0x4000 | 0x8000, -1, 0)  # private, anonymous, populated, unreserved
    libc.munmap(at, SIZE)
def handler(event, context):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            while True:
                populate()
"""
    sandbox = await lab.sandbox(code, memory_mb=512)
    await result(await sandbox.fork())
    await sandbox.freeze()
    assert sandbox.state in (State.FROZEN, State.CLOSED)
    if sandbox.state is State.FROZEN:
        assert sandbox._jail.group is not None and sandbox._jail.group.freeze(), "all of it has stopped"


FILL = """
import os
def handler(event, context):
    made = 0
    try:
        while made < 80_000:
            os.close(os.open(f"{event}/{os.getpid()}-{made}", os.O_CREAT))
            made += 1
    except OSError as exc:
        return exc.strerror
    return made
"""


@pytest.mark.parametrize("lab", ["docker"], indirect=True)
@pytest.mark.docker
async def test_files_are_bounded_by_docker(lab: Lab) -> None:
    assert await result(await lab.instance(FILL, memory_mb=512), "/tmp") == "No space left on device"


@pytest.mark.parametrize("lab", ["bwrap"], indirect=True)
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_files_that_outlive_an_instance_end_its_sandbox(lab: Lab, folder: str) -> None:
    """Empty ones: they take no space of the folder's, only the kernel's memory."""
    sandbox = await lab.sandbox(FILL, memory_mb=512)
    closed = asyncio.get_running_loop().create_future()
    sandbox.on_closed = closed.set_result
    instance = await sandbox.fork()
    assert await result(instance, folder) == 80_000
    await instance.close()
    async with asyncio.timeout(10):
        await closed


@pytest.mark.root
async def test_what_dead_instances_leave_in_memory_is_bounded(lab: Lab) -> None:
    sandbox = await lab.sandbox("def handler(event, context):\n    return 1\n", memory_mb=64)
    for n in range(1, 6):
        await result(await sandbox.fork())
        assert sandbox._jail.group is not None
        bound = sandbox._jail.group.bound_bytes()
        assert (n + 1) * 64 * MIB < bound < 2 * (n + 2) * 70 * MIB + LEFT_BYTES


async def test_no_process_reaches_into_anothers_memory(lab: Lab) -> None:
    code = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def refused(work):
    try:
        return not work()
    except PermissionError:
        return True
def reaches(pid):
    there = ctypes.create_string_buffer(8)
    spans = [Span(ctypes.addressof(there), 8), Span(id(Span), 8)]
    return libc.process_vm_readv(pid, ctypes.byref(spans[0]), 1, ctypes.byref(spans[1]), 1, 0) > 0
def handler(event, context):
    if event == 'pid':
        return os.getpid()
    kid = f"import os; os.close(os.open('/proc/{event}/mem', os.O_RDWR)); print('in')"
    return {
        "mem": refused(lambda: open(f"/proc/{event}/mem", "r+b")),
        "environ": refused(lambda: open(f"/proc/{event}/environ").read()),
        "fds": refused(lambda: os.listdir(f"/proc/{event}/fd")),
        "readv": refused(lambda: reaches(event)),
        "ptrace": libc.ptrace(16, event, 0, 0) < 0,
        "child": b"in" not in subprocess.run([sys.executable, "-c", kid], capture_output=True).stdout,
    }
"""
    sandbox = await lab.sandbox(code)
    one, two = await sandbox.fork(), await sandbox.fork()
    for victim in (1, await result(two, "pid")):
        assert set((await result(one, victim)).values()) == {True}, victim
    assert await result(two, "pid") > 1, "it lives"


@pytest.mark.parametrize("lab", ["docker"], indirect=True)
@pytest.mark.docker
async def test_the_agents_socket_is_closed_to_the_function(lab: Lab) -> None:
    """Who could say "fork" to it would have an instance in no control group."""
    code = """
import socket
def handler(event, context):
    try:
        socket.socket(socket.AF_UNIX).connect('/run/jiffy/agent.sock')
        return 'connected'
    except PermissionError:
        return 'refused'
"""
    sandbox = await lab.sandbox(code)
    assert await result(await sandbox.fork()) == "refused"
    assert await result(await sandbox.fork()) == "refused", "we can still connect"


async def test_an_answer_said_twice_does_not_answer_the_next_call(lab: Lab) -> None:
    """A thread that a call left behind knows the socket, and the number of its own call."""
    code = """
import json, os, stat, threading, time
def sockets():
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass
def say(number):
    meta = b'{"t":"ok","c":%d,"us":1}' % number
    for fd in sockets():
        os.write(fd, len(meta).to_bytes(4, 'big') + (6).to_bytes(4, 'big') + meta + b'"fake"')
def handler(event, context):
    if event:
        say(event)
        time.sleep(0.3)
    return "true"
"""
    instance = await lab.instance(code)
    assert await result(instance) == "true"
    assert await result(instance, 1) == "true"
    assert await result(instance) == "true"
    assert await result(instance, 4) == "fake", "of its own call it may say what it likes"
    assert await result(instance) == "true", "what the handler then returned came too late"
    assert (await ended(instance, 99)).reason == "closed", "an answer to a call that there never was"


async def test_the_agents_own_modules_are_no_handlers(lab: Lab) -> None:
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision("", handler="jiffy_function:run"))
    assert loaded.error is not None and b"No module named 'jiffy_function'" in loaded.error
    files = {"jiffy_function.py": "def run(event, context):\n    return 'mine'\n"}
    instance = await lab.instance(files, handler="jiffy_function:run")  # type: ignore[arg-type]
    assert await result(instance) == "mine"
