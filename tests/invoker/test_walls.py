"""What a function cannot do, whichever driver holds it. Each test is code that tries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jiffy.contract import seccomp
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.limits import MIB

from .conftest import PIDS_MAX, SCRATCH_BYTES
from .lab import Lab, ended, result

TRY = """
import ctypes, errno, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(work):
    try:
        return ['done', repr(work())]
    except OSError as exc:
        return ['refused', errno.errorcode.get(exc.errno, '')]
def raw(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), '')
    return result
def status():
    return dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
def handler(event, context):
    return eval(event, globals() | {'context': context})
"""


@pytest.fixture
async def ask(lab: Lab) -> Any:
    instance = await lab.instance(TRY, memory_mb=256)

    async def ask(expression: str) -> Any:
        return await result(instance, expression)

    return ask


async def test_it_is_nobody_without_any_right(lab: Lab) -> None:
    instance = await lab.instance(TRY)
    found = await result(instance, "status()")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert found["NoNewPrivs"].strip() == "1"
    assert found["Seccomp"].strip() == "2"
    assert "0" not in found["Uid"].split()
    assert "0" not in found["Groups"].split()
    outside = dict(line.split(":", 1) for line in Path(f"/proc/{instance.pid}/status").read_text().splitlines())
    assert "0" not in outside["Uid"].split() + outside["Gid"].split()
    assert outside["Groups"].split() in ([], [outside["Gid"].split()[0]])


@pytest.mark.root
async def test_two_sandboxes_are_two_users(lab: Lab) -> None:
    one, two = await lab.instance(TRY), await lab.instance(TRY)
    owners = {os.stat(f"/proc/{instance.pid}").st_uid for instance in (one, two)}
    assert len(owners) == 2


async def test_it_sees_no_other_processes(ask: Any) -> None:
    assert len(await ask("[p for p in os.listdir('/proc') if p.isdigit()]")) == 2  # the zygote and itself
    assert await ask("attempt(lambda: os.kill(1, 9))") == ["done", "None"]  # the kernel lets process 1 ignore it
    assert await ask("1 + 1") == 2


async def test_the_file_system_is_read_only_but_for_scratch(ask: Any) -> None:
    for path in (
        "/x",
        "/var/task/x",
        "/opt/python/x",
        "/var/runtime/agent.py",
        "/etc/passwd",
        "/usr/local/bin/x",
        "/dev/x",
    ):
        assert (await ask(f"attempt(lambda: open({path!r}, 'w'))"))[0] == "refused", path
    for path in ("/run/jiffy/agent.sock", "/run/jiffy/x"):
        assert (await ask(f"attempt(lambda: open({path!r}, 'w'))"))[0] == "refused", path
    assert (await ask("attempt(lambda: os.rename('/run/jiffy', '/run/x'))"))[0] == "refused"
    assert (await ask("attempt(lambda: os.unlink('/run/jiffy/agent.sock'))"))[0] == "refused"
    assert await ask("open('/tmp/x', 'w').write('ok')") == 2
    assert await ask("os.environ['TMPDIR']") == "/tmp/i-1"
    assert await ask("[m for m in open('/proc/mounts') if ' rw' in m and m.split()[1] in ('/', '/var/task')]") == []


async def test_scratch_is_limited(ask: Any) -> None:
    fill = "attempt(lambda: open('/tmp/big', 'wb').write(bytes({})))"
    assert await ask(fill.format(SCRATCH_BYTES + MIB)) == ["refused", "ENOSPC"]
    assert await ask("os.path.getsize('/tmp/big')") <= SCRATCH_BYTES
    assert (await ask("os.unlink('/tmp/big') or " + fill.format(MIB)))[0] == "done"


async def test_there_is_no_network(ask: Any) -> None:
    assert await ask("[name for _, name in socket.if_nameindex()]") == ["lo"]
    for address in (("127.0.0.1", 22), ("169.254.169.254", 80), ("1.1.1.1", 53)):
        found = await ask(f"attempt(lambda: socket.create_connection({address!r}, timeout=2))")
        assert found in (["refused", "ENETUNREACH"], ["refused", "ECONNREFUSED"]), address


async def test_proc_and_sys_say_and_take_nothing(ask: Any) -> None:
    for path in (
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
    ):
        assert (await ask(f"attempt(lambda: open({path!r}, 'w').write('1'))"))[0] == "refused", path
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
        found = await ask(f"attempt(lambda: open({path!r}).read(1))")
        assert found[0] == "refused" or found[1] == "''", path
    assert await ask("socket.gethostname()") == "function"


async def test_its_environment_holds_nothing_of_the_host(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set(await ask("sorted(os.environ)"))
    expected = {
        "AWS_LAMBDA_FUNCTION_NAME",
        "GREETING",
        "HOME",
        "JIFFY_FUNCTION",
        "JIFFY_REVISION",
        "PATH",
        "TMPDIR",
        "TZ",
    }
    assert expected <= found
    assert all(
        name.startswith(("AWS_LAMBDA_", "JIFFY_", "LAMBDA_")) or name in expected | {"LANG", "_HANDLER"}
        for name in found
    )


async def test_no_namespace_mount_or_trace_can_be_made(ask: Any) -> None:
    machine = ("x86_64", "aarch64").index(os.uname().machine)
    names = ("mount", "umount2", "pivot_root", "setns", "unshare", "bpf", "keyctl", "add_key", "userfaultfd")
    for name in (*names, "perf_event_open", "open_by_handle_at", "kexec_load", "init_module", "reboot", "swapon"):
        number = seccomp._DENIED[name][machine]
        found = await ask(f"attempt(lambda: raw({number}, 0x10000000, 0, 0, 0, 0))")
        assert found in (["refused", "EPERM"], ["refused", "ENOSYS"]), name
    clone = seccomp._CLONE[machine]
    assert await ask(f"attempt(lambda: raw({clone}, 0x10000000 | 17, 0, 0, 0, 0))") == ["refused", "EPERM"]
    assert await ask("attempt(lambda: raw(435, 0, 0))") in (["refused", "ENOSYS"], ["refused", "EINVAL"])


@pytest.mark.parametrize("lab", ["bwrap"], indirect=True)
async def test_bubblewraps_own_filter(ask: Any) -> None:
    machine = ("x86_64", "aarch64").index(os.uname().machine)
    assert await ask("attempt(lambda: raw(425, 1, 0))") == ["refused", "ENOSYS"]  # io_uring
    assert await ask(f"attempt(lambda: raw({seccomp._DENIED['ptrace'][machine]}, 16, 1))") == ["refused", "EPERM"]
    assert await ask("attempt(lambda: socket.socket(40, 1))") == ["refused", "EAFNOSUPPORT"]  # vsock
    assert await ask("attempt(lambda: socket.socket(38, 5))") == ["refused", "EAFNOSUPPORT"]  # the kernel's crypto
    assert await ask(f"attempt(lambda: raw({seccomp._IOCTL[machine]}, 0, 0x5412, 0))") == ["refused", "EPERM"]
    assert await ask(f"attempt(lambda: raw({seccomp._PERSONALITY[machine]}, 0x0040000))") == ["refused", "EPERM"]
    assert (await ask(f"attempt(lambda: raw({seccomp._PERSONALITY[machine]}, 0xffffffff))"))[0] == "done"
    if machine == 0:
        assert (await ask("attempt(lambda: raw(0x40000000 + 39))"))[0] == "refused"  # x32's getpid


async def test_limits_of_the_process(ask: Any) -> None:
    assert await ask("__import__('resource').getrlimit(4)") == [0, 0]  # core dumps
    assert await ask("__import__('resource').getrlimit(7)") == [1024, 1024]  # open files


async def test_a_fork_bomb_is_bounded_and_gone_after_the_timeout(lab: Lab) -> None:
    bomb = """
import os, time
def handler(event, context):
    if event == 'count':
        return sum(name.isdigit() for name in os.listdir('/proc'))
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.05)
"""
    sandbox = await lab.sandbox(bomb)
    witness, bomber = await sandbox.fork(), await sandbox.fork()
    exploding = bomber.call({"id": "1"}, b"null", 1.0)
    most = 0
    while not exploding.done():
        most = max(most, await result(witness, "count"))
    assert 10 < most <= PIDS_MAX
    assert (await exploding)[0] == "timeout"
    while await result(witness, "count") > 2:
        pass
    assert await result(await sandbox.fork(), "count") == 3


async def test_the_listener_cannot_be_replaced(lab: Lab) -> None:
    code = """
import os, socket
def handler(event, context):
    try:
        os.unlink('/run/jiffy/agent.sock')
    except OSError:
        pass
    try:
        fake = socket.socket(socket.AF_UNIX)
        fake.bind('/run/jiffy/agent.sock')
        fake.listen()
        return 'replaced'
    except OSError:
        return 'kept'
"""
    sandbox = await lab.sandbox(code)
    assert await result(await sandbox.fork()) == "kept"
    assert await result(await sandbox.fork()) == "kept"


async def test_a_zygote_that_the_user_took_over_cannot_harm_us(lab: Lab) -> None:
    """Code that runs at import shares the zygote's process: it can forge its frames, for its own function only."""
    code = """
import os
for fd in range(3, 12):
    try:
        os.write(fd, bytes.fromhex('%s'))
    except OSError:
        pass
def handler(event, context):
    return 1
"""
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision(code % "ffffffffffffffff"))
    assert loaded.error is not None
    other = await lab.instance(TRY)
    assert await result(other, "1 + 1") == 2
    forged = b'{"t":"exited","n":99,"status":0}'
    frame = ((len(forged)).to_bytes(4, "big") + bytes(4) + forged).hex()
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision(code % frame))
    assert loaded.error is None
    assert await result(await sandbox.fork()) == 1
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision(code % (frame * 100)))
    assert loaded.error is not None, "one is ignored, a flood ends the sandbox"
    with pytest.raises(SandboxFailed, match="can't become"):
        await sandbox.specialise(lab.revision(TRY))


async def test_an_instance_cannot_outlive_its_timeout_in_a_session_of_its_own(lab: Lab) -> None:
    code = "import os, signal, time\ndef handler(event, context):\n    signal.signal(15, signal.SIG_IGN)\n"
    code += "    os.fork() and os.setsid if True else None\n    time.sleep(600)\n"
    instance = await lab.instance(code)
    assert (await ended(instance, timeout_s=0.3)).reason == "timeout"
