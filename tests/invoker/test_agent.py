"""What a handler meets: its context, its environment, its errors, its process. One driver is enough for these."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from invoker.instance import Reply
from invoker.sandbox import Sandbox

from .lab import Lab, call, error, result

pytestmark = pytest.mark.parametrize("lab", ["bwrap"], indirect=True)
AGENT = Path(__file__).resolve().parents[2] / "builder/runtimes/python/agent.py"


async def test_the_context_is_lambdas(lab: Lab) -> None:
    code = """
def handler(event, context):
    names = ['aws_request_id', 'log_group_name', 'log_stream_name', 'function_name', 'memory_limit_in_mb',
             'function_version', 'invoked_function_arn', 'tenant_id', 'client_context']
    identity = context.identity
    context.log('logged')
    return {n: getattr(context, n) for n in names} | {
        'left': context.get_remaining_time_in_millis(),
        'identity': [identity.cognito_identity_id, identity.cognito_identity_pool_id]}
"""
    instance = await lab.instance(code)
    found = await result(instance)
    assert 9000 < found.pop("left") <= 10_000
    assert found == {
        "aws_request_id": "0190-call",
        "log_group_name": "/jiffy/hello",
        "log_stream_name": "[7]1",
        "function_name": "hello",
        "memory_limit_in_mb": "128",
        "function_version": "7",
        "invoked_function_arn": "urn:jiffy:acme:function:hello:7",
        "tenant_id": "acme",
        "client_context": None,
        "identity": [None, None],
    }
    assert instance.read_log() == b"logged"


async def test_the_environment_is_the_functions(lab: Lab) -> None:
    code = "import os, sys, time\ndef handler(event, context):\n"
    code += "    return [dict(os.environ), os.getcwd(), sys.path[:2], time.tzname, sys.stdin.read()]\n"
    environ, cwd, path, zone, stdin = await result(
        await lab.instance(code, env={"TZ": "Asia/Tokyo", "HOME": "/x", "A": "ü"})
    )
    assert environ["_HANDLER"] == "app.handler"
    assert environ["AWS_LAMBDA_FUNCTION_NAME"] == environ["JIFFY_FUNCTION"] == "hello"
    assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128"
    assert environ["AWS_LAMBDA_FUNCTION_VERSION"] == environ["JIFFY_REVISION"] == "7"
    assert environ["LAMBDA_TASK_ROOT"] == cwd == path[0] == "/var/task"
    assert (environ["LAMBDA_RUNTIME_DIR"], path[1], stdin) == ("/var/runtime", "/opt/python", "")
    assert (environ["HOME"], environ["A"], environ["LANG"]) == ("/x", "ü", "C.UTF-8")
    assert "JIFFY_LISTEN_FD" not in environ
    assert zone[0] == "JST" or environ["TZ"] == "Asia/Tokyo"  # no zone data in the base: the name is all there is


async def test_async_handlers_share_one_loop(lab: Lab) -> None:
    code = """
import asyncio
loops = set()
async def handler(event, context):
    loops.add(id(asyncio.get_running_loop()))
    await asyncio.sleep(0)
    if event == 'raise':
        raise KeyError('async')
    return len(loops)
"""
    instance = await lab.instance(code)
    assert [await result(instance), await result(instance)] == [1, 1]
    found = await error(instance, "raise")
    assert (found["errorType"], found["errorMessage"]) == ("KeyError", "'async'")
    assert len(found["stackTrace"]) == 1 and "/var/task/app.py" in found["stackTrace"][0]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise Exception('x' * 10_000_000)", "Exception", "x" * 65_536),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise GeneratorExit('g')", "GeneratorExit", "g"),
        ("bytes(10 ** 18)", "MemoryError", ""),
        (
            "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
            "Odd",
            "(its text could not be made: ZeroDivisionError)",
        ),
        ("import decimal; return decimal.Decimal('NaN')", "Runtime.MarshalError", None),
        (
            "x = []; x.append(x); return x",
            "Runtime.MarshalError",
            "Unable to marshal response: Circular reference detected",
        ),
    ],
)
async def test_errors_of_every_kind_are_answers(lab: Lab, body: str, kind: str, message: str | None) -> None:
    instance = await lab.instance(f"def handler(event, context):\n    {body}\n")
    found = await error(instance)
    assert found["errorType"] == kind
    assert message is None or found["errorMessage"] == message
    assert not any("agent.py" in line or "jiffy_function" in line for line in found["stackTrace"])
    assert await error(instance) == found


async def printed(lab: Lab, body: str, head: str = "") -> str:
    """What one call of a handler leaves in its log."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    instance = await lab.instance(f"{head}\ndef handler(event, context):\n{lines}")
    await call(instance)
    return instance.read_log().decode()


async def test_a_failure_is_in_the_log_with_its_causes_and_without_our_frames(lab: Lab) -> None:
    log = await printed(lab, "print('on it', end='')\ntry:\n    {}['x']\nexcept KeyError as exc:\n    1 / 0")
    head, _, trace = log.partition("\n")
    assert head == "on it[ERROR] ZeroDivisionError: division by zero"
    assert trace == (
        "Traceback (most recent call last):\n"
        '  File "/var/task/app.py", line 5, in handler\n'
        "    {}['x']\n"
        "    ~~^^^^^\n"
        "KeyError: 'x'\n"
        "\nDuring handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        '  File "/var/task/app.py", line 7, in handler\n'
        "    1 / 0\n"
        "    ~~^~~\n"
    )


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return object()", "[ERROR] Runtime.MarshalError: Unable to marshal response"),
        ("return 'x' * 7_000_000", "[ERROR] Function.ResponseSizeTooLarge: the result has 7000002 bytes"),
        ("import sys\nsys.stderr = None\nraise ValueError('quiet')", "[ERROR] ValueError: quiet"),
        ("import requests", "[HINT] no module 'requests': it is neither in your folder"),
        (
            "import socket\nsocket.create_connection(('192.0.2.1', 80))",
            "[HINT] this function has no network; network = true in jiffy.toml gives it one",
        ),
        (
            "import socket\ntry:\n    socket.getaddrinfo('example.org', 80)\n"
            "except OSError as exc:\n    raise RuntimeError('no') from exc",
            "[HINT] this function has no network",
        ),
    ],
)
async def test_failures_of_every_kind_are_in_the_log(lab: Lab, body: str, line: str) -> None:
    assert any(found.startswith(line) for found in (await printed(lab, body)).splitlines())


async def test_a_message_that_has_the_remedy_gets_no_hint_of_another(lab: Lab) -> None:
    # as jiffy_library.LeftOut words it, in a slim image
    text = "No module named 'csv': slim = true left it out of this image; add keep = [...] to the function"
    log = await printed(lab, f"raise ModuleNotFoundError({text!r}, name='csv')")
    assert text in log and "[HINT]" not in log


async def test_a_failed_import_is_in_the_log(lab: Lab) -> None:
    loaded = await (await lab.stem()).specialise(lab.revision("print('soon')\nimport nowhere\ndef handler(e, c): ..."))
    lines = loaded.log.decode().splitlines()
    assert lines[:3] == [
        "soon",
        "[ERROR] Runtime.ImportModuleError: Unable to import module 'app': No module named 'nowhere'",
        "Traceback (most recent call last):",
    ]
    assert lines[3] == '  File "/var/task/app.py", line 2, in <module>'


async def test_logging_works_as_on_lambda(lab: Lab) -> None:
    log = await printed(
        lab,
        "logger.info('hello')\nlogger.debug('not this')",
        "import logging\nlogger = logging.getLogger()\nlogger.setLevel(logging.INFO)",
    )
    assert re.fullmatch(r"\[INFO\]\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t0190-call\thello\n", log), log


async def test_logging_that_the_function_set_up_stays_as_it_is(lab: Lab) -> None:
    log = await printed(
        lab, "logging.info('mine')", "import logging\nlogging.basicConfig(level=20, format='%(message)s')"
    )
    assert log == "mine\n"


async def test_deep_recursion_is_an_error_with_a_short_stack(lab: Lab) -> None:
    found = await error(await lab.instance("def handler(event, context):\n    return handler(event, context)\n"))
    assert found["errorType"] == "RecursionError"
    assert len(found["stackTrace"]) < 10


async def test_values_json_can_hold(lab: Lab) -> None:
    code = "import decimal\ndef handler(event, context):\n"
    code += "    return {'d': decimal.Decimal('1.5'), 't': (1, 2), 'u': '\\ud800é'}\n"
    reply = await call(await lab.instance(code))
    assert isinstance(reply, Reply) and reply.ok
    assert json.loads(reply.payload) == {"d": 1.5, "t": [1, 2], "u": "\ud800é"}


async def test_an_event_that_is_no_json_is_an_error(lab: Lab) -> None:
    instance = await lab.instance("def handler(event, context):\n    return event\n")
    for event in (b"", b"{", b"\xff", b"[" * 100_000):
        reply = await instance.call({"id": "1"}, event, 10)
        assert isinstance(reply, Reply)
        assert json.loads(reply.payload)["errorType"] == "Runtime.UnmarshalError"
    assert await result(instance, 1) == 1


async def test_modules_of_the_user_shadow_none_of_ours(lab: Lab) -> None:
    poison = "raise RuntimeError('shadowed')\n"
    names = ("sdk", "agent", "traceback", "select", "signal", "struct", "jiffy_function", "jiffy_process", "linecache")
    code = "import json\ndef handler(event, context):\n    return json.mine if event else 1 / 0\n"
    files = {f"{name}.py": poison for name in names} | {"app.py": code, "json/__init__.py": "mine = 1"}
    sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision(files))
    assert loaded.error is None
    instance = await sandbox.fork()
    found = await error(instance, 0)
    assert found["errorType"] == "ZeroDivisionError"
    assert len(found["stackTrace"]) == 1
    assert (await error(instance, 1))["errorType"] == "AttributeError"  # the interpreter's json was there before theirs


async def test_what_is_random_differs_between_instances(lab: Lab) -> None:
    code = "import os, random, ssl, tempfile, uuid\nrandom.random()\ntempfile.gettempdir()\n"
    code += "def handler(event, context):\n    return [random.random(), str(uuid.uuid4()), ssl.RAND_bytes(8).hex(),"
    code += " tempfile.mkdtemp()]\n"
    sandbox = await lab.sandbox(code)
    one, two = await result(await sandbox.fork()), await result(await sandbox.fork())
    assert all(a != b for a, b in zip(one, two, strict=True))
    assert (one[3].rpartition("/")[0], two[3].rpartition("/")[0]) == ("/tmp/i-1", "/tmp/i-2")


async def test_scratch_of_an_instance_goes_with_it(lab: Lab) -> None:
    code = """
import os
def handler(event, context):
    if event == 'fill':
        os.makedirs(os.environ['TMPDIR'] + '/a/b')
        open(os.environ['TMPDIR'] + '/a/b/c', 'w').close()
    if event == 'die':
        os._exit(1)
    return sorted(os.listdir('/tmp'))
"""
    sandbox = await lab.sandbox(code)
    one, two, witness = await sandbox.fork(), await sandbox.fork(), await sandbox.fork()
    await result(one, "fill")
    assert await result(two, "fill") == ["i-1", "i-2", "i-3"]
    await one.close()
    await call(two, "die")
    async with asyncio.timeout(5):
        while await result(witness) != ["i-3"]:
            await asyncio.sleep(0.01)


async def test_a_program_that_changed_the_defaults_still_answers(lab: Lab) -> None:
    code = """
import signal, socket, sys
socket.setdefaulttimeout(0.01)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.set_wakeup_fd(-1)
sys.setrecursionlimit(150)
class Mute:
    def write(self, text): return len(text)
sys.stdout = Mute()
def handler(event, context):
    print('unheard')
    sys.stdout = None
    return signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
"""
    sandbox = await lab.sandbox(code)
    instance = await sandbox.fork()
    await asyncio.sleep(0.05)  # longer than the timeout it chose for new sockets
    assert await result(instance) is True
    assert await result(instance) is True
    await instance.close()
    assert await result(await sandbox.fork()) is True


async def test_threads_at_import_do_not_stop_the_zygote(lab: Lab) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    code += "def handler(event, context):\n    return threading.active_count()\n"
    sandbox = await lab.sandbox(code)
    assert isinstance(await result(await sandbox.fork()), int)


async def test_an_import_without_end_is_cut_off(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoker.sandbox.limits.INIT_MAX_S", 0.3)
    sandbox: Sandbox = await lab.stem()
    loaded = await sandbox.specialise(lab.revision("print('begun')\nimport time\ntime.sleep(600)\n"))
    assert loaded.error is not None
    assert json.loads(loaded.error)["errorType"] == "Sandbox.Timedout"
    assert loaded.log.startswith(b"begun\n[ERROR] Sandbox.Timedout: the module was still being imported after ")


def test_the_agent_imports_only_what_it_may(lab: Any) -> None:
    """Its start-up allowance: every stem pays for each of these."""
    code = f"import sys; sys.path.insert(0, {str(AGENT.parent)!r}); before = set(sys.modules); import agent; "
    code += "print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert {"json", "socket", "select", "jiffy_function"} <= loaded
    assert not loaded & {
        "asyncio",
        "typing",
        "dataclasses",
        "logging",
        "ctypes",
        "subprocess",
        "traceback",
        "pathlib",
        "http",
    }
    top = set(re.findall(r"^import (\w+)", AGENT.read_text(), re.MULTILINE))
    assert top <= {"gc", "json", "os", "select", "signal", "socket", "struct", "sys", "time"}
