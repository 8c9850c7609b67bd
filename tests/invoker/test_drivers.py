"""One behaviour, two drivers: what happens to a function is the same in a container and under bubblewrap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import pytest

from invoker.drivers.base import Wish
from invoker.instance import Instance
from invoker.sandbox import Sandbox, State
from invoker.staging import mounted_below
from jiffy.contract import limits
from jiffy.contract.errors import SandboxFailed, Unavailable

from .lab import Lab, call, ended, error, result

ECHO = "def handler(event, context):\n    return event\n"


async def test_a_stem_becomes_a_function_that_answers(lab: Lab) -> None:
    sandbox = await lab.stem()
    assert sandbox.state is State.STEM
    loaded = await sandbox.specialise(lab.revision("print('imported')\n" + ECHO))
    assert (loaded.error, loaded.log) == (None, b"imported\n")
    assert loaded.import_us > 0
    instance = await sandbox.fork()
    assert await result(instance, {"a": ["ü", 1, None]}) == {"a": ["ü", 1, None]}
    assert instance.calls == 1


async def test_code_and_dependencies_are_found_and_cannot_be_changed(lab: Lab) -> None:
    code = (
        "import dep, helper, os\ndef handler(path, context):\n    return [dep.X, helper.Y, os.access(path, os.W_OK)]\n"
    )
    revision = lab.revision({"app.py": code, "helper.py": "Y = 2"})
    deps = lab.layer("deps", {"dep/__init__.py": "X = 1"})
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(revision._replace(layers=(*revision.layers, deps)))
    assert loaded.error is None
    instance = await sandbox.fork()
    assert await result(instance, "/var/task/app.py") == [1, 2, False]
    assert await result(instance, "/opt/python/dep/__init__.py") == [1, 2, False]
    writer = await lab.instance("def handler(e, c):\n    open('/var/task/app.py', 'a').write('#')\n")
    assert (await error(writer))["errorType"] in ("OSError", "PermissionError")


async def test_two_functions_with_the_same_layer_have_it_at_the_same_time(lab: Lab) -> None:
    one, two = await lab.instance(ECHO), await lab.instance(ECHO)
    assert await asyncio.gather(result(one, 1), result(two, 2)) == [1, 2]


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("import nowhere", "Runtime.ImportModuleError", "Unable to import module 'app': No module named 'nowhere'"),
        ("def handler(:", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'"),
        ("x = 1", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("handler = 1", "Runtime.HandlerNotFound", "can't be called"),
        ("raise ValueError('no')", "ValueError", "no"),
        ("import sys; sys.exit(4)", "Runtime.ExitError", "exited with status 4"),
        ("import os; os._exit(4)", "Runtime.ExitError", "ended while the function was imported"),
        ("x = bytearray(500 << 20)", "Runtime.OutOfMemory", "memory_mb = 128"),
    ],
)
async def test_a_failing_import_is_the_functions_own_failure(lab: Lab, code: str, kind: str, message: str) -> None:
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision(f"print('began')\n{code}\n"))
    assert loaded.error is not None
    assert f'"errorType": "{kind}"'.encode() in loaded.error
    assert message.encode() in loaded.error
    assert loaded.log.startswith(b"began\n") is (kind != "Runtime.UserCodeSyntaxError")
    assert b"agent.py" not in loaded.error


async def test_instances_run_at_the_same_time(lab: Lab) -> None:
    code = """
import os, time
def handler(event, context):
    open(f'/tmp/here-{event}', 'w').close()
    while not os.path.exists(f'/tmp/here-{1 - event}'):
        time.sleep(0.001)
    return os.getpid()
"""
    sandbox = await lab.sandbox(code)
    one, two = await asyncio.gather(sandbox.fork(), sandbox.fork())
    pids = await asyncio.gather(result(one, 0), result(two, 1))  # each waits for the other
    assert len(set(pids)) == 2
    assert one.pid > 0 and one.pid != two.pid


async def test_a_timeout_kills_one_instance_and_its_children_only(lab: Lab) -> None:
    code = """
import subprocess, sys, time
def handler(event, context):
    if event == 'hang':
        print('hanging')
        subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])
        time.sleep(600)
    return processes()
def processes():
    import os
    return sum(name.isdigit() for name in os.listdir('/proc'))
"""
    sandbox = await lab.sandbox(code)
    victim, neighbour = await sandbox.fork(), await sandbox.fork()
    before = await result(neighbour)
    left = asyncio.get_running_loop().create_future()
    victim.on_exit = left.set_result
    exit_ = await ended(victim, "hang", timeout_s=0.5)
    assert exit_.reason == "timeout"
    assert exit_.duration_us >= 500_000
    assert await left is victim
    assert victim.read_log() == b"hanging\n"
    assert await _becomes(neighbour, before - 1)
    assert set(sandbox.instances) == {neighbour.n}
    assert sandbox.state is State.READY


async def test_too_much_memory_kills_one_instance_only(lab: Lab) -> None:
    code = "def handler(event, context):\n    return len(bytearray(event << 20))\n"
    sandbox = await lab.sandbox(code, memory_mb=64)
    victim, neighbour = await sandbox.fork(), await sandbox.fork()
    assert await result(neighbour, 40) == 40 << 20
    exit_ = await ended(victim, 200)
    assert exit_.reason == "out_of_memory"
    assert victim.max_memory_bytes() == 64 << 20
    assert await result(neighbour, 40) == 40 << 20
    assert 40 << 20 < neighbour.max_memory_bytes() < 64 << 20
    assert neighbour.cpu_us() > 0
    assert await result(await sandbox.fork(), 1) == 1 << 20


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("import os; os._exit(3)", "exit", 3),
        ("import sys; sys.exit(5)", "exit", 5),
        ("import sys; sys.exit('bye')", "exit", 1),
        ("import ctypes; ctypes.string_at(0)", "signal", 11),
        ("import os; os.kill(os.getpid(), 9)", "signal", 9),
        ("import os; os.closerange(3, 100)", "exit", 1),
    ],
)
async def test_an_instance_that_ends_says_how(lab: Lab, code: str, reason: str, status: int) -> None:
    instance = await lab.instance(f"def handler(event, context):\n    print('last words')\n    {code}\n")
    exit_ = await ended(instance)
    assert (exit_.reason, exit_.code) == (reason, status)
    assert instance.read_log().startswith(b"last words\n")
    assert await ended(instance) == exit_  # and goes on saying so
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    assert (await ended(await sandbox.fork())).code == status


async def test_a_megabyte_of_output_arrives_whole_and_in_order(lab: Lab) -> None:
    code = """
import sys
def handler(event, context):
    for i in range(20_000):
        print(f'line {i:06} ' + 'x' * 40, file=(sys.stdout, sys.stderr)[i % 2])
"""
    instance = await lab.instance(code)
    await result(instance)
    lines = instance.read_log().decode().splitlines()
    assert [line.split()[1] for line in lines] == [f"{i:06}" for i in range(20_000)]


async def test_output_of_subprocesses_and_c_code_is_output_too(lab: Lab) -> None:
    code = "import os, sys, subprocess\ndef handler(e, c):\n    os.write(1, b'C ')\n    print('py', flush=True)\n"
    code += "    subprocess.run([sys.executable, '-I', '-S', '-c', 'print(1)'], check=True)\n"
    instance = await lab.instance(code)
    await result(instance)
    assert instance.read_log() == b"C py\n1\n"


async def test_an_instance_takes_its_children_along(lab: Lab) -> None:
    code = """
import os, subprocess, sys
STAY = 'import os, time; os.fork() or os.setsid(); time.sleep(600)'
def handler(event, context):
    if event:
        subprocess.Popen([sys.executable, '-I', '-S', '-c', STAY], start_new_session=True)
    return sum(name.isdigit() for name in os.listdir('/proc'))
"""
    sandbox = await lab.sandbox(code)
    parent, witness = await sandbox.fork(), await sandbox.fork()
    before = await result(witness, False)
    assert await result(parent, True) > before
    await parent.close()
    assert await _becomes(witness, before - 1, event=False)


async def _becomes(witness: Instance, count: int, event: object = None) -> bool:
    """Does the witness see `count` processes, as soon as the killed ones are buried?"""
    async with asyncio.timeout(5):
        while await result(witness, event) != count:
            await asyncio.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("{1, 2}", "Runtime.MarshalError", "Object of type set is not JSON serializable"),
        ("float('nan')", "Runtime.MarshalError", "JSON compliant"),
        ("b'raw'", "Runtime.MarshalError", "Object of type bytes is not JSON serializable"),
        ("'x' * (50 << 20)", "Function.ResponseSizeTooLarge", "6291456"),
    ],
)
async def test_a_result_that_cannot_be_sent_is_an_error(lab: Lab, value: str, kind: str, message: str) -> None:
    instance = await lab.instance(f"def handler(event, context):\n    return 1 if event else {value}\n", memory_mb=512)
    found = await error(instance)
    assert found["errorType"] == kind
    assert message in found["errorMessage"]
    assert await result(instance, True) == 1


async def test_the_largest_payloads_go_both_ways(lab: Lab) -> None:
    instance = await lab.instance(ECHO)
    text = "x" * (limits.PAYLOAD_MAX_BYTES - 2)
    assert await result(instance, text) == text


async def test_text_that_looks_like_our_frames_is_only_text(lab: Lab) -> None:
    forged = b'\\0\\0\\0\\x12\\0\\0\\0\\2{"t":"ok","us":1}42'
    code = f"import os\ndef handler(event, context):\n    os.write(1, b'{forged.decode()}')\n    return 'true answer'\n"
    instance = await lab.instance(code)
    assert await result(instance) == "true answer"
    assert b'{"t":"ok","us":1}42' in instance.read_log()


async def test_garbage_on_the_instances_own_connection_ends_it_alone(lab: Lab) -> None:
    code = """
import os, socket, time
def handler(event, context):
    if event:
        for fd in range(3, 20):
            try:
                os.write(fd, bytes.fromhex(event))
            except OSError:
                pass
        time.sleep(600)
    return 'fine'
"""
    sandbox = await lab.sandbox(code)
    neighbour = await sandbox.fork()
    for garbage in ("ffffffffffffffff", "0000000200000000" + b"[]".hex(), "0000000200000000" + b"{}".hex()):
        assert (await ended(await sandbox.fork(), garbage)).reason == "closed"
        assert await result(neighbour) == "fine"


async def test_frozen_processes_stand_still_until_thawed(lab: Lab) -> None:
    code = """
import threading, time
ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.001)
def handler(event, context):
    if event == 'start':
        threading.Thread(target=tick, daemon=True).start()
    return len(ticks)
"""
    instance = await lab.instance(code)
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    await result(instance, "start")
    await sandbox.freeze()
    assert sandbox.state is State.FROZEN
    assert await _state(instance.pid) != "R"
    spent = instance.cpu_us()
    await asyncio.sleep(0.1)  # it would tick a hundred times
    assert instance.cpu_us() == spent
    await sandbox.thaw()
    first = await result(instance)
    async with asyncio.timeout(5):
        while await result(instance) == first:
            await asyncio.sleep(0.001)


async def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_frozen_sandbox_can_be_forked_and_closed(lab: Lab) -> None:
    instance = await lab.instance(ECHO)
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    await sandbox.freeze()
    assert await result(await sandbox.fork(), 1) == 1
    await sandbox.freeze()
    await instance.close()
    await sandbox.freeze()
    await sandbox.close()
    assert sandbox.state is State.CLOSED


async def test_a_killed_zygote_ends_its_sandbox_once(lab: Lab) -> None:
    instance = await lab.instance("import time\ndef handler(event, context):\n    time.sleep(600)\n")
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    closed = []
    done = asyncio.Event()
    sandbox.on_closed = lambda box: (closed.append(box), done.set())[0]
    running = instance.call({"id": "1"}, b"null", 60)
    os.kill(sandbox._jail.pid, 9)  # the one thing in it that only the host can reach
    async with asyncio.timeout(10):
        exit_ = await running
        await done.wait()
    assert not hasattr(exit_, "ok")
    await sandbox.close()
    assert closed == [sandbox]
    with pytest.raises(SandboxFailed):
        await sandbox.fork()


async def test_a_killed_zygote_ends_its_calls_even_when_we_hear_of_it_late(lab: Lab) -> None:
    instance = await lab.instance("import time\ndef handler(event, context):\n    time.sleep(600)\n")
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    closed = asyncio.get_running_loop().create_future()
    sandbox.on_closed = closed.set_result
    running = instance.call({"id": "1"}, b"null", 60)
    os.kill(sandbox._jail.pid, 9)
    _wait_for_the_burial(instance)
    async with asyncio.timeout(10):
        assert not hasattr(await running, "ok")
        assert await closed is sandbox
    assert instance.max_memory_bytes() >= 0 and instance.cpu_us() >= 0


def _wait_for_the_burial(instance: Instance) -> None:
    """Keep the loop from running until nothing is left of the instance, its control group neither."""
    give_up = time.monotonic() + 10
    for folder in () if instance._cell is None else (instance._cell._memory, instance._cell._cpu):
        while folder.exists():
            assert time.monotonic() < give_up
            with contextlib.suppress(OSError):
                folder.rmdir()
            time.sleep(0.002)


async def test_close_leaves_nothing_behind(lab: Lab) -> None:
    instance = await lab.instance("import time\ndef handler(event, context):\n    time.sleep(600)\n")
    sandbox = instance.sandbox
    assert isinstance(sandbox, Sandbox)
    stem = await lab.stem()
    running = instance.call({"id": "1"}, b"null", 60)
    pids = [instance.pid, sandbox._jail.pid, stem._jail.pid]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    await lab.close()
    assert (await running)[0] == "closed"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert [p.name for p in (lab.data / "run").glob("*/*")] == [".staged"]
    await lab.driver.close()
    assert mounted_below(lab.data) == []
    assert list((lab.data / "run").iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"**/jiffy-test-{os.getpid()}"))


async def test_a_missing_layer_and_a_missing_base_are_our_failure(lab: Lab) -> None:
    nowhere = lab.base._replace(kind="code", digest="sha256:" + "f" * 64)
    revision = lab.revision(ECHO)
    sandbox = await lab.stem()
    with pytest.raises(SandboxFailed, match="sha256-ffff"):
        await sandbox.specialise(revision._replace(layers=(lab.base, nowhere)))
    with pytest.raises(SandboxFailed, match="sha256:ffff"):
        await Sandbox.start(lab.driver, lab.data, "python3.11", nowhere)


async def test_a_network_is_given_or_refused_clearly(lab: Lab) -> None:
    code = "import socket\ndef handler(event, context):\n    return [name for _, name in socket.if_nameindex()]\n"
    if not lab.driver.network:
        with pytest.raises(Unavailable, match="network"):
            await Sandbox.start(lab.driver, lab.data, lab.base_runtime, lab.base, Wish(network=True))
        return
    sandbox = await Sandbox.start(lab.driver, lab.data, lab.base_runtime, lab.base, Wish(network=True))
    lab.sandboxes.append(sandbox)
    await sandbox.specialise(lab.revision(code, network=True))
    assert "eth0" in await result(await sandbox.fork())


async def test_calls_after_a_function_error_go_on(lab: Lab) -> None:
    instance = await lab.instance("def handler(event, context):\n    return 1 / event\n")
    found = await error(instance, 0)
    assert found["errorType"] == "ZeroDivisionError"
    assert found["stackTrace"] == [
        '  File "/var/task/app.py", line 2, in handler\n    return 1 / event\n           ~~^~~~~~~\n'
    ]
    assert await result(instance, 2) == 0.5
    assert await call(instance, 4) is not None
