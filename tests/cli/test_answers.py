"""Commands against a platform that answers what it is told to: what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.test_client import Platform

JIFFY = [sys.executable, "-P", "-c", "from jiffy.cli.main import main; main(prog_name='jiffy')"]
STEP = {"kind": "step", "step": "code", "text": "code layer", "bytes": 0, "cached": False, "elapsed_ms": 0}


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    made.replies = HasSources()
    made.say("GET", "/v1/status", 200, {"invokers": [{"network": False}]})
    yield made
    made.close()


def deploy(platform: Platform, folder: Path, *names: str, events: tuple[dict[str, Any], ...], more: str = "") -> None:
    """Have `platform` take these functions of `folder`, and tell these events of each build."""
    folder.joinpath("m.py").write_text("")
    tables = "".join(f'[functions.{name}]\nhandler = "m:f"\n{more}' for name in names)
    folder.joinpath("jiffy.toml").write_text(tables)
    lines = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    for name in names:
        platform.say("PUT", f"/v1/functions/{name}", 202, {"build": name})
        platform.say("GET", f"/v1/builds/{name}/events", 200, lines)


def start(platform: Platform, *words: str, command: str = "deploy") -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("JIFFY_")} | {"JIFFY_URL": platform.url}
    return subprocess.Popen(
        [*JIFFY, command, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(number: int = 1) -> dict[str, Any]:
    return {"kind": "done", "revision": number, "unchanged": False}


class HasSources(dict[Any, Any]):
    """Every source is there already."""

    def get(self, key: Any, default: Any = None) -> Any:
        method, path = key
        return [(200, {}, b"")] if method == "HEAD" and path.startswith("/v1/sources/") else super().get(key, default)


def test_ctrl_c_ends_the_command_and_tells_that_the_build_goes_on(platform: Platform, tmp_path: Path) -> None:
    deploy(platform, tmp_path, "a", "b", events=(STEP,))
    command = start(platform, str(tmp_path))
    assert command.stderr is not None
    assert command.stderr.readline() == "a: code    code layer\n"
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=20)
    assert (command.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "jiffy: the build of a, b goes on; see: jiffy show a"


def test_a_platform_that_goes_away_before_all_has_begun(platform: Platform, tmp_path: Path) -> None:
    deploy(platform, tmp_path, "a", events=())
    platform.say("PUT", "/v1/functions/a", 503, {"error": {"code": "unavailable", "message": "no builder is alive"}})
    out, err = (command := start(platform, str(tmp_path))).communicate(timeout=20)
    assert (command.returncode, out) == (1, "")
    assert err == "jiffy: no builder is alive; see what is in service: jiffy list\n"


@pytest.mark.parametrize(
    ("names", "words", "lines"), [("abc", [], 3), ("abcd", [], 5), ("a", ["--quiet"], 0), ("a", ["--json"], 0)]
)
def test_many_functions_tell_no_steps_where_nobody_watches(
    platform: Platform, tmp_path: Path, names: str, words: list[str], lines: int
) -> None:
    deploy(platform, tmp_path, *names, events=(STEP, done()))
    out, err = (command := start(platform, str(tmp_path), *words)).communicate(timeout=20)
    assert command.returncode == 0 and len(err.splitlines()) == lines
    assert all(f"{platform.url}/function/{name}" in out for name in names)


def test_what_the_builder_warns_of_is_told_at_the_end(platform: Platform, tmp_path: Path) -> None:
    warning = STEP | {"step": "warning", "text": "m imports requests, which is nowhere"}
    deploy(platform, tmp_path, "a", events=(warning, STEP, done()))
    out, err = (command := start(platform, str(tmp_path), "-q")).communicate(timeout=20)
    assert command.returncode == 0 and out.startswith("a  revision 1")
    assert err == "jiffy: warning: a: m imports requests, which is nowhere\n"


@pytest.mark.parametrize(("network", "warned"), [("network = true\n", True), ("", False)])
def test_a_network_that_no_host_can_give_is_a_warning(
    platform: Platform, tmp_path: Path, network: str, warned: bool
) -> None:
    deploy(platform, tmp_path, "a", events=(done(),), more=network)
    out, err = (command := start(platform, str(tmp_path))).communicate(timeout=20)
    assert command.returncode == 0 and out.startswith("a  revision 1")
    assert ("jiffy: warning: a has network = true, and no host here can give it one" in err) is warned


def test_show_hides_what_is_in_the_environment(platform: Platform) -> None:
    env = {"PASSWORD": "hunter2"}
    shown = dict.fromkeys(("name", "description", "url", "revision", "handler", "runtime", "max_instances"), "x")
    document = {**shown, "memory_mb": 1, "timeout_s": 1.0, "network": False, "env": env, "spec": {"env": env}}
    platform.say("GET", "/v1/functions/x", 200, document | {"routes": [], "layers": [], "revisions": []})
    for words, seen in ((["x"], 0), (["x", "--json"], 0), (["x", "--show-env"], 1), (["x", "--json", "--show-env"], 2)):
        out, _ = start(platform, *words, command="show").communicate(timeout=20)
        assert (out.count("PASSWORD") > 0, out.count("hunter2")) == (True, seen), words


def test_logs_of_a_call_that_is_not_there_say_so(platform: Platform) -> None:
    platform.say("GET", "/v1/functions/x/logs", 200, b"")
    command = start(platform, "x", "--invocation", "7c0e91d2", "--since", "10m", "-t", command="logs")
    assert command.communicate(timeout=20) == ("", "jiffy: the log of x has nothing of an invocation 7c0e91d2\n")
    assert command.returncode == 1
    [(_, path, _, _)] = platform.asked
    assert path.endswith("?format=text&invocation=7c0e91d2&since=10m&timestamps=true&limit=100")


def test_a_bill_of_no_function_is_an_error(platform: Platform) -> None:
    hint = "there is no function 'helo'; did you mean 'hello'?"
    platform.say("GET", "/v1/usage", 200, {"rows": [], "next": None, "total": {"calls": 0}})
    platform.say("GET", "/v1/functions/helo", 404, {"error": {"code": "not_found", "message": hint}})
    command = start(platform, "--function", "helo", command="bill")
    assert command.communicate(timeout=20) == ("", f"jiffy: {hint}\n")
    assert command.returncode == 1


@pytest.mark.parametrize(("target", "warned"), [("nobody", True), ("a", False)])
def test_a_destination_that_is_not_there_is_a_warning(
    platform: Platform, tmp_path: Path, target: str, warned: bool
) -> None:
    deploy(platform, tmp_path, "a", events=(done(),), more=f'on_failure = "function:{target}"\n')
    platform.say("GET", "/v1/functions", 200, {"functions": [{"name": "a"}]})
    _, err = (command := start(platform, "-q", str(tmp_path))).communicate(timeout=20)
    assert command.returncode == 0
    assert ("jiffy: warning: a names the destination function:nobody, and there is no" in err) is warned


def test_removing_what_others_name_as_their_destination_is_a_warning(platform: Platform) -> None:
    platform.say("GET", "/v1/functions/x", 200, {"name": "x"})
    found = [{"name": "a", "destinations": ["function:x"]}, {"name": "b", "destinations": ["function:xy"]}]
    platform.say("GET", "/v1/functions", 200, {"functions": [*found, {"name": "x", "destinations": ["function:x"]}]})
    platform.say("DELETE", "/v1/functions/x", 204, b"")
    out, err = start(platform, "x", "--yes", command="remove").communicate(timeout=20)
    queued = "jiffy: calls that were queued before still run; `jiffy cancel ID` takes one back\n"
    assert out == "removed x\n"
    assert err == "jiffy: warning: x is a destination of a: what it is told will wait\n" + queued


def test_a_tenants_function_is_told_with_the_url_that_has_its_tenant(platform: Platform, tmp_path: Path) -> None:
    deploy(platform, tmp_path, "a", events=(done(),))
    platform.say("GET", "/v1/functions/a", 200, {"url": "http://inside:1/t/acme/function/a"})
    out, _ = start(platform, "-q", str(tmp_path)).communicate(timeout=20)
    assert out == f"a  revision 1  {platform.url}/t/acme/function/a\n"


def test_an_alias_that_a_trigger_names_and_nobody_set_is_a_warning(platform: Platform, tmp_path: Path) -> None:
    more = "".join(
        f'[[functions.a.triggers]]\ntype = "http"\nname = "{alias}"\npath = "/{alias}"\nalias = "{alias}"\n'
        for alias in ("prod", "none")
    )
    deploy(platform, tmp_path, "a", events=(done(),), more=more)
    platform.say("GET", "/v1/functions/a/aliases", 200, {"aliases": [{"alias": "prod"}]})
    _, err = (command := start(platform, "-q", str(tmp_path))).communicate(timeout=20)
    assert command.returncode == 0
    assert err.startswith("jiffy: warning: a has an http trigger with alias = 'none'") and err.count("warning") == 1


@pytest.mark.parametrize("name", ["a", "nobody"])
def test_a_limit_for_a_function_that_is_not_there_is_a_warning(platform: Platform, name: str) -> None:
    platform.say("GET", "/v1/functions", 200, {"functions": [{"name": "a"}]})
    platform.say("PUT", "/v1/quotas/q", 200, {"name": "q", "function": name, "rate": 3})
    words = ("set", "q", "--rate", "3", "--function", name)
    out, err = (command := start(platform, *words, command="quota")).communicate(timeout=20)
    assert command.returncode == 0 and name in out
    text = "jiffy: warning: the quota q names the function nobody, and there is no function nobody yet\n"
    assert err == (text if name == "nobody" else "")


def test_what_an_invocation_raised_is_shown_as_python_does_with_the_hint_from_its_log(platform: Platform) -> None:
    frames = ['  File "/var/task/a.py", line 2, in handler\n    import x\n']
    error = {"errorType": "ModuleNotFoundError", "errorMessage": "No module named 'x'", "stackTrace": frames}
    how = {"jiffy_outcome": "error", "jiffy_invocation_id": "019a", "jiffy_revision": "1"}
    platform.say("POST", "/v1/functions/a:prod/invocations", 200, error, **how)
    platform.say("GET", "/v1/functions/a/logs", 200, b"START\n[HINT] no module 'x'\nEND\n")
    _, err = start(platform, "a:prod", command="invoke").communicate(timeout=20)
    assert err.splitlines()[:-1] == [
        "Traceback (most recent call last):",
        '  File "/var/task/a.py", line 2, in handler',
        "    import x",
        "ModuleNotFoundError: No module named 'x'",
        "[HINT] no module 'x'",
    ]


def test_triggers_of_a_function_that_has_routes_alone(platform: Platform) -> None:
    platform.say("GET", "/v1/triggers", 200, {"triggers": []})
    platform.say("GET", "/v1/functions/a", 200, {"spec": {"triggers": [{"type": "http"}]}})
    _, err = start(platform, "show", "a", command="triggers").communicate(timeout=20)
    assert err == "jiffy: a has http triggers only, and those are routes: jiffy show a\n"


def test_a_host_that_is_not_there_is_not_drained(platform: Platform) -> None:
    platform.say("GET", "/v1/status", 200, {"invokers": [{"invoker": "inv-1", "host": "vm"}]})
    _, err = start(platform, "nosuch", command="drain").communicate(timeout=20)
    assert err.endswith("Error: there is no host 'nosuch'; hosts: inv-1\n")


def test_https_where_plain_http_is_spoken(platform: Platform) -> None:
    platform.url = platform.url.replace("http://", "https://")
    _, err = start(platform, command="list").communicate(timeout=20)
    assert err.startswith(f"jiffy: no TLS connection to {platform.url}: [SSL")
    assert err.endswith("; it may speak plain HTTP: set JIFFY_URL to http://…\n")


def test_a_log_is_of_a_function_not_of_an_alias(platform: Platform) -> None:
    _, err = (command := start(platform, "a:prod", command="logs")).communicate(timeout=20)
    assert command.returncode == 2 and err.endswith("whatever revision or alias was called: jiffy logs a\n")


@pytest.mark.parametrize("status", [401, 403])
def test_a_deploy_that_is_refused_says_why(platform: Platform, tmp_path: Path, status: int) -> None:
    deploy(platform, tmp_path, "a", events=())
    why = {"error": {"code": "unauthorized", "message": "this platform needs an API key: set JIFFY_API_KEY"}}
    platform.replies = Refuses(platform.replies, status, json.dumps(why).encode())
    out, err = (command := start(platform, str(tmp_path))).communicate(timeout=20)
    assert (command.returncode, out) == (1, "")
    assert err == "jiffy: this platform needs an API key: set JIFFY_API_KEY\n"
    assert [method for method, *_ in platform.asked] == ["HEAD", "PUT"]


class Refuses(dict[Any, Any]):
    """Everything is answered with one error."""

    def __init__(self, replies: dict[Any, Any], status: int, body: bytes) -> None:
        super().__init__(replies)
        self._reply: tuple[int, dict[str, str], bytes] = (status, {}, body)

    def get(self, key: Any, default: Any = None) -> Any:
        return [self._reply]
