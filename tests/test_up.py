"""`jiffy up` keeps its processes: order at the end, nothing left after `kill -9`, the same data at the next start."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from jiffy.cli.main import main
from tests import servers
from tests.platforms import JIFFY, Up, platform, until

SLOW = "import time\ndef f(event, context):\n    time.sleep(event.get('s', 0))\n    return event\n"
TOML = '[functions.slow]\nhandler = "m:f"\nmax_instances = 1\ntimeout_s = 5\nroutes = ["GET /slow"]\n'

SANDBOXES = ["bwrap", pytest.param("docker", marks=pytest.mark.docker)]


@pytest.fixture(params=SANDBOXES)
def sandbox(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def up(data_dir: Path) -> Iterator[Up]:
    """A platform where the kind of sandbox does not matter."""
    with platform(data_dir, "--sandbox", "bwrap") as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(data_dir: Path, number: signal.Signals) -> None:
    with platform(data_dir, "--sandbox", "bwrap") as up:
        assert up.stop(number) == 0
        assert up.told().endswith("jiffy: stopping: calls that run have 10 s to end; once more ends all at once\n")
        assert up.left() == []
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", int(up.url.rpartition(":")[2]))),
        ):
            pass


def test_nothing_is_lost_over_a_restart(data_dir: Path, tmp_path: Path, sandbox: str) -> None:
    with platform(data_dir, "--sandbox", sandbox) as up:
        up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
        assert up.invoke("slow", {"n": 0}).status_code == 200
        queued = [up.invoke("slow", {"s": 0.5, "n": n}, mode="async").json()["invocation"] for n in range(6)]
        assert up.stop() == 0
        assert up.left() == []
        up.start()
        assert up.get("/slow").status_code == 200
        assert up.jiffy("list").stdout.count("slow") > 0
        records = [f"/v1/invocations/{one}" for one in queued]
        until(lambda: all(up.get(path).json()["state"] == "done" for path in records))
        results = [up.get(path).json() for path in records]
        assert [(r["outcome"], r["result"]["n"]) for r in results] == [("ok", n) for n in range(6)]
        assert up.json("bill", "--by", "function")["total"]["calls"] == 8, "every attempt once"


def test_kill_9_of_the_supervisor_leaves_nothing(data_dir: Path, tmp_path: Path, sandbox: str) -> None:
    with platform(data_dir, "--sandbox", sandbox) as up:
        idle = '[functions.idle]\nhandler = "m:f"\n'
        up.deploy(tmp_path / "slow", TOML + idle, m__py=SLOW)
        assert [up.get(path).status_code for path in ("/slow", "/function/idle")] == [200, 200]
        until(lambda: frozen(up) or os.geteuid() != 0)  # a frozen process can't even die by itself
        thread = threading.Thread(target=cut_off, args=(up,))
        thread.start()
        until(lambda: any(host["running"] for host in up.get("/v1/status").json()["invokers"]), 60)
        up.kill()
        thread.join()
        until(lambda: not up.left())  # the engine removes a container after its process has ended
        up.start()
        assert up.get("/slow").status_code == 200, "the function is still there"


def frozen(up: Up) -> bool:
    hosts = up.get("/v1/status").json()["invokers"]
    return any(function["frozen"] for host in hosts for function in host["functions"])


def cut_off(up: Up) -> None:
    """A call that runs when the platform is killed."""
    with pytest.raises(httpx.TransportError):
        up.invoke("slow", {"s": 4})


@pytest.mark.parametrize("name", ["gateway", "ledger", "invoker", "builder", "valkey"])
def test_a_process_that_dies_is_started_again(up: Up, tmp_path: Path, name: str) -> None:
    up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
    assert up.get("/slow").status_code == 200
    before = up.child(name)
    os.kill(before, signal.SIGKILL)
    killed_ms = time.time() * 1000
    until(lambda: "starting it again" in up.told())
    assert re.search(
        rf"^jiffy: the {name} was killed by SIGKILL; starting it again in 0\.1 s \(.*{name}\.log\)$", up.told(), re.M
    )
    until(lambda: up.child(name) not in (before, 0))
    until(lambda: healthy(up) and heard_since(up, killed_ms) and up.get("/slow").status_code == 200)
    assert "revision 2" in up.deploy(tmp_path / "slow", TOML, m__py=SLOW + "# changed\n")


def test_the_very_first_call_finds_a_stem(up: Up, tmp_path: Path) -> None:
    """Before anything is deployed the usual base layer is made, and stems of it are started."""
    until(lambda: all(sum(host["stems"].values()) for host in up.get("/v1/status").json()["invokers"]))


def test_what_a_killed_invoker_left_is_gone_once_it_is_back(up: Up, tmp_path: Path) -> None:
    """Frozen sandboxes above all: they can't notice that nobody is there any more."""
    up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
    assert up.get("/slow").status_code == 200
    until(lambda: frozen(up) or os.geteuid() != 0)
    invoker = up.child("invoker")
    left = [os.pidfd_open(pid) for pid in up.family(invoker)]
    assert left
    os.kill(invoker, signal.SIGKILL)
    for fd in left:
        ended, _, _ = select.select([fd], [], [], 20)
        os.close(fd)
        assert ended, "a sandbox outlived its invoker"


def heard_since(up: Up, ms: float) -> bool:
    """Have the invoker and the builder said since then that they are there?"""
    status = up.get("/v1/status").json()
    beats = [*status["invokers"], *status["builders"]]
    return len(beats) == 2 and all(beat["at_ms"] > ms for beat in beats)


def healthy(up: Up) -> bool:
    try:
        return up.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_process_that_keeps_dying_is_given_up(data_dir: Path) -> None:
    up = Up(data_dir, "--sandbox", "bwrap")
    up.start()
    killed: set[int] = set()

    def kill_again() -> bool:
        pid = up.child("builder")
        if pid and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return up.process.poll() is not None

    until(kill_again, within_s=60)
    up.http.close()
    assert up.process.stdout is not None
    up.process.stdout.close()
    assert up.process.wait() == 1
    assert "the builder was killed by SIGKILL, the 6th time; giving up" in up.told()
    assert "Traceback" not in up.told()
    assert up.left() == []


def test_one_data_folder_one_platform(up: Up) -> None:
    second = Up(up.data, "--sandbox", "bwrap")
    with pytest.raises(AssertionError, match=rf"in use by another `jiffy up` \(process {up.process.pid}\)"):
        second.start()
    assert second.process.stdout is not None
    second.process.stdout.close()
    assert second.process.wait() == 1
    assert up.get("/healthz").status_code == 200


def test_a_key_opens_what_others_may_reach(data_dir: Path, tmp_path: Path) -> None:
    with platform(data_dir, "--sandbox", "bwrap", "--host", "0.0.0.0", JIFFY_API_KEY="sesame") as up:
        up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
        for path in ("/slow", "/function/slow", "/v1/functions", "/v1/usage", "/v1/status"):
            assert httpx.get(up.url + path, trust_env=False).status_code == 401, path
            assert up.get(path).status_code == 200, path
        assert httpx.get(up.url + "/healthz", trust_env=False).status_code == 200
        for pid in up.family():
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"sesame" not in words
            if pid != up.child("gateway"):
                assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes(), words


def test_two_tenants_of_one_platform(data_dir: Path, tmp_path: Path) -> None:
    """The same names, the same routes, builds and calls at the same hosts: each has its own."""
    file = tmp_path / "keys.toml"
    words = [(name, ["keys", "new", name, "--tenant", name, "--keys", str(file)]) for name in ("acme", "globex")]
    keys = {tenant: CliRunner().invoke(main, new).stdout.strip() for tenant, new in words}
    with platform(data_dir, "--sandbox", "bwrap", "--host", "0.0.0.0", "--keys", str(file)) as up:
        for tenant, key in keys.items():
            up.env["JIFFY_API_KEY"] = key
            up.deploy(tmp_path / tenant, TOML, m__py=f"def f(event, context):\n    return {tenant!r}\n")
        for tenant, key in keys.items():
            up.env["JIFFY_API_KEY"] = key
            up.http.headers["x-api-key"] = key
            for path in ("/slow", "/function/slow", f"/t/{tenant}/slow"):
                assert up.get(path).json() == tenant, path
            assert up.invoke("slow").json() == tenant
            assert up.json("bill", "--by", "function")["total"]["calls"] == 4
            assert len(up.jiffy("logs", "slow").stdout.split("START ")) == 5
        up.http.headers.pop("x-api-key")
        for path in ("/slow", "/v1/status", "/t/acme/slow"):
            assert up.get(path).status_code == 401, path
        assert up.get("/healthz").status_code == 200


def test_several_gateways_share_the_port(data_dir: Path, tmp_path: Path) -> None:
    with platform(data_dir, "--sandbox", "bwrap", "--gateways", "2") as up:
        up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
        names = set()

        def ask() -> bool:
            with httpx.Client(base_url=up.url, trust_env=False) as http:  # a connection of its own
                assert http.get("/slow").status_code == 200
                names.add(http.get("/v1/status").json()["gateway"]["name"])
            return len(names) == 2

        until(ask)


@pytest.mark.redis
def test_a_redis_and_a_ledger_of_ones_own(data_dir: Path, tmp_path: Path) -> None:
    """Their URLs may hold passwords, so no command line of ours repeats them."""
    book = tmp_path / "book.sqlite3"
    own = {"JIFFY_LEDGER": f"sqlite:///{book}"}
    with servers.valkey() as server, platform(data_dir, "--sandbox", "bwrap", **own, JIFFY_REDIS=server.url) as up:
        up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
        assert up.get("/slow").status_code == 200
        lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in up.family())
        assert b"invoker" in lines and b"valkey-server" not in lines
        assert server.url.encode() not in lines and str(book).encode() not in lines
        assert book.exists() and not (data_dir / "ledger.sqlite3").exists()


def test_a_data_folder_deeper_than_a_sockets_path_may_be_long(data_dir: Path, tmp_path: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.parent.mkdir()
    with platform(deep, "--sandbox", "bwrap") as up:
        up.deploy(tmp_path / "slow", TOML, m__py=SLOW)
        assert up.get("/slow").status_code == 200
        assert up.stop() == 0
        assert up.left() == []


def test_the_users_own_modules_shadow_none_of_ours(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`jiffy up` and `jiffy deploy` in a folder with a builder.py and a json.py of the user's."""
    for name in ("builder", "gateway", "json", "jiffy", "redis"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with platform(data_dir, "--sandbox", "bwrap") as up:
        assert up.get("/healthz").status_code == 200


def test_a_part_that_cannot_start_is_told_with_its_reason(data_dir: Path) -> None:
    up = Up(data_dir, "--sandbox", "docker", DOCKER_HOST="unix:///nowhere/docker.sock")
    with pytest.raises(AssertionError):
        up.start()
    assert up.process.stdout is not None
    up.process.stdout.close()
    assert up.process.wait() == 1
    told = up.told()
    assert told.startswith("jiffy: the invoker can't start: ") and "Traceback" not in told
    assert JIFFY and up.left() == []
