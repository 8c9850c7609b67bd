"""Two hosts that share a queue and a registry, and no folder: what one builds runs on the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.platforms import JIFFY, platform, until
from tests.registries import Registry

pytestmark = pytest.mark.redis
TOML = '[functions.hello]\nhandler = "app:handler"\n'
CODE = "import os\ndef handler(event, context): return {'said': event['say']}\n"


def test_what_one_host_builds_another_pulls_and_runs(
    data_dir: Path, tmp_path: Path, redis_server: servers.RedisServer
) -> None:
    redis_server.flush()
    second = data_dir.with_name("second")
    second.mkdir(mode=0o755)
    with Registry(tmp_path) as registry:
        shared = "--redis", redis_server.url, "--sandbox", "bwrap", "--registry", f"http://{registry.host}/team"
        with platform(data_dir, *shared) as up:
            up.deploy(tmp_path / "app", TOML, app__py=CODE)
            other = invoker(second, shared)
            try:
                until(lambda: len(up.json("status")["invokers"]) == 2)
                up.jiffy("drain", (data_dir / "invoker-id").read_text().strip())
                until(lambda: up.invoke("hello", {"say": "there"}).status_code == 200)
                assert up.invoke("hello", {"say": "there"}).json() == {"said": "there"}
                assert len(list((second / "layers").glob("sha256-*"))) == 2
            finally:
                other.terminate()
                assert other.wait(40) == 0


def invoker(data: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "invoker", "--data", str(data), "--id", "second", *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def test_a_registry_s_address_is_checked_before_anything_starts(data_dir: Path) -> None:
    done = subprocess.run(
        [*JIFFY, "up", "--data", str(data_dir), "--registry", "http://a:secret@b/c"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "JIFFY_REGISTRY_AUTH" in done.stderr and "secret" not in done.stderr
