"""Attempts to get out, to harm a neighbour or to run unbilled, on each driver. What walls merely look like from inside
is test_walls.py's; here each test is an attack that once worked, or that its author expected to.
"""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from invoker.cgroups import LEFT_BYTES
from invoker.drivers.base import Wish
from invoker.sandbox import Exit, Sandbox, State
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.limits import MIB

from .lab import Lab, call, ended, result

TRY = """
import ctypes, errno, os, resource, signal, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
def outcome(work):
    try:
        return "done: " + repr(work())[:200]
    except OSError as exc:
        return errno.errorcode.get(exc.errno, "timeout")
    except ValueError as exc:
        return str(exc)
def connect(kind, address, family=socket.AF_INET):
    sock = socket.socket(family, kind)
    sock.settimeout(2)
    sock.connect(address)
    sock.send(b"x")
def shared(path):
    return open(path, "w").write("mine")
def handler(event, context):
    return {name: outcome(lambda: eval(text)) for name, text in event.items()}
"""

# What must fail, each for whatever reason the driver has.
ATTEMPTS = {
    "engine": "connect(socket.SOCK_STREAM, '/var/run/docker.sock', socket.AF_UNIX)",
    "containerd": "connect(socket.SOCK_STREAM, '/run/containerd/containerd.sock', socket.AF_UNIX)",
    "shadow": "open('/etc/shadow').read()",
    "host root by way of process 1": "os.listdir('/proc/1/root/')",
    "host root by way of its folder": "os.listdir('/proc/1/cwd/')",
    "out of the root": "open('/../../../../root/.bashrc')",
    "raw memory": "open('/dev/mem', 'rb')",
    "kernel log": "open('/dev/kmsg')",
    "disk": "[open('/dev/' + name, 'rb') for name in ('sda', 'vda', 'nvme0n1')]",
    "fuse": "open('/dev/fuse')",
    "device of its own": "os.mknod('/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1))",
    "root": "os.setuid(0)",
    "group of root": "os.setgroups([0])",
    "another user": "os.setresuid(12345, 12345, 12345)",
    "ownership": "os.chown('/tmp', 0, 0)",
    "new root": "os.chroot('/tmp')",
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "unmount": "call('umount2', b'/proc', 2)",
    "user namespace": "call('unshare', 0x10000000)",
    "network namespace": "call('unshare', 0x40000000)",
    "host's namespace": "call('setns', os.open('/proc/1/ns/net', os.O_RDONLY), 0)",
    "tracing process 1": "call('ptrace', 16, 1, 0, 0)",
    "host name": "socket.sethostname('mine')",
    "clock": "__import__('time').clock_settime(0, 0)",
    "real-time scheduling": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    "priority": "os.nice(-5)",
    "more files": "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "kernel setting": "open('/proc/sys/vm/overcommit_memory', 'w').write('1')",
    "own limits": "open('/sys/fs/cgroup/memory/memory.limit_in_bytes', 'w').write('-1')",
    "another group": "open('/sys/fs/cgroup/cgroup.procs', 'w').write('0')",
    "oom score": "open('/proc/self/oom_score_adj', 'w').write('-1000')",
    "kernel module": "call('init_module', 0, 0, b'')",
}


async def test_every_way_out_is_shut(lab: Lab) -> None:
    found = await result(await lab.instance(TRY), ATTEMPTS)
    assert {name: said for name, said in found.items() if said.startswith("done")} == {}


async def test_listeners_of_the_host_are_out_of_reach(lab: Lab) -> None:
    """TCP and UDP on loopback, and Unix sockets without a file, which only a network namespace hides."""
    name = f"jiffy-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        abstract.bind(f"\0{name}")
        abstract.listen()
        tries = {
            "tcp": f"connect(socket.SOCK_STREAM, ('127.0.0.1', {tcp.getsockname()[1]}))",
            "abstract": f"connect(socket.SOCK_STREAM, chr(0) + {name!r}, socket.AF_UNIX)",
            "udp": f"connect(socket.SOCK_DGRAM, ('127.0.0.1', {udp.getsockname()[1]}))",
        }
        found = await result(await lab.instance(TRY), tries)
        assert found["tcp"] == "ECONNREFUSED" and found["abstract"] == "ECONNREFUSED"
        with pytest.raises(BlockingIOError):
            udp.recv(1)


async def test_two_sandboxes_share_nothing(lab: Lab) -> None:
    """Scratch, shared memory and queues of one are not the other's; nor do its signals arrive there."""
    one, two = await lab.instance(TRY), await lab.instance(TRY)
    queue = "call('shmget', 0x6a696666, 4096, {})"
    leave = {"scratch": "shared('/tmp/x')", "memory": "shared('/dev/shm/x')", "key": queue.format(0o1666)}
    assert all(said.startswith("done") for said in (await result(one, leave)).values())
    look = {"scratch": "open('/tmp/x').read()", "memory": "open('/dev/shm/x').read()", "key": queue.format(0o666)}
    assert set((await result(two, look)).values()) == {"ENOENT"}
    await call(one, {"everybody": "os.kill(-1, signal.SIGKILL)"}, 1.0)
    assert await result(two, {"alive": "1"}) == {"alive": "done: 1"}


async def test_an_instance_is_handed_nothing_of_the_host(lab: Lab) -> None:
    kinds = "{os.readlink(f'/proc/self/fd/{fd}').partition(':')[0] for fd in range(3, 64) if libc.fcntl(fd, 1) >= 0}"
    found = (await result(await lab.instance(TRY), {"open": kinds}))["open"]
    assert "/" not in found.replace("/dev/null", ""), found


async def test_files_and_memory_run_out_for_the_one_who_takes_them(lab: Lab) -> None:
    hog = """
import os
def handler(event, context):
    kept = []
    try:
        while event == 'files':
            kept.append(os.open('/dev/null', os.O_RDONLY))
    except OSError as exc:
        return exc.strerror
    finally:
        for fd in kept:
            os.close(fd)
    while event == 'memory':
        kept.append(b'x' * (1 << 20))
    return 'well'
"""
    sandbox = await lab.sandbox(hog, memory_mb=64)
    one, two = await sandbox.fork(), await sandbox.fork()
    assert await result(one, "files") == "Too many open files"
    assert await result(one) == "well"
    outcome = await call(one, "memory")
    assert isinstance(outcome, Exit) or b"MemoryError" in outcome.payload
    assert await result(two) == "well"


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
    for number in event or ():
        say(number)
    time.sleep(0.3 if event else 0)
    return "true"
"""
    instance = await lab.instance(code)
    assert await result(instance) == "true"
    assert await result(instance, [1]) == "true"
    assert await result(instance) == "true"
    assert await result(instance, [4]) == "fake", "of its own call it may say what it likes"
    assert await result(instance) == "true", "what the handler then returned came too late"
    assert (await ended(instance, [99])).reason == "closed", "an answer to a call that there never was"
    instance = await lab.instance(code)
    assert await result(instance) == "true"
    assert (await ended(instance, [1] * 100)).reason == "closed", "a few late answers may be chance, a flood is none"


async def test_the_agents_own_modules_are_no_handlers(lab: Lab) -> None:
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision("", handler="jiffy_function:run"))
    assert loaded.error is not None and b"No module named 'jiffy_function'" in loaded.error
    files = {"jiffy_function.py": "def run(event, context):\n    return 'mine'\n"}
    instance = await lab.instance(files, handler="jiffy_function:run")  # type: ignore[arg-type]
    assert await result(instance) == "mine"


@pytest.mark.root
async def test_an_instance_outside_its_control_group_is_none(lab: Lab) -> None:
    """Code that runs at import shares the zygote, and can have it fork without moving the child."""
    code = """
import sys
sys.modules['__main__'].os = type('Os', (), {'__getattr__': lambda self, name: getattr(__import__('os'), name),
                                            'write': lambda self, fd, data: len(data)})()
def handler(event, context):
    return 'unmetered'
"""
    sandbox = await lab.sandbox(code)
    with pytest.raises(SandboxFailed, match="not in its control group"):
        await sandbox.fork()


@pytest.mark.parametrize("lab", ["docker"], indirect=True)
@pytest.mark.docker
async def test_two_functions_with_a_network_do_not_see_each_other(lab: Lab) -> None:
    code = """
import socket
def handler(event, context):
    if event:
        try:
            socket.create_connection(event, timeout=1).close()
            return 'connected'
        except OSError:
            return 'out of reach'
    global listener
    listener = socket.create_server(('0.0.0.0', 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.connect(('192.0.2.1', 9))  # sends nothing: it only asks which address would
        return own.getsockname()[0], listener.getsockname()[1]
"""
    instances = []
    for _ in range(2):
        sandbox = await Sandbox.start(lab.driver, lab.data, lab.base_runtime, lab.base, Wish(network=True))
        lab.sandboxes.append(sandbox)
        await sandbox.specialise(lab.revision(code, network=True))
        instances.append(await sandbox.fork())
    address = await result(instances[0])
    assert await result(instances[0], address) == "connected"
    assert await result(instances[1], address) == "out of reach"
