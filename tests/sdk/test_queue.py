"""The embedded queue, started as `jiffy up` starts it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import redis

from jiffy import queue


def test_its_memory_is_bounded_and_it_forgets_nothing(tmp_path: Path) -> None:
    folder, run = tmp_path / "valkey", tmp_path / "run"
    folder.mkdir()
    run.mkdir()
    process = subprocess.Popen(queue.command(folder), stdout=subprocess.DEVNULL)
    try:
        url = queue.socket_url(run, -1)
        give_up = time.monotonic() + 10
        while queue.trouble(url):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        with redis.Redis.from_url(url) as client:
            settings = client.config_get("maxmemory*")
            total: int = client.info("memory")["total_system_memory"]
        assert 0 < int(settings["maxmemory"]) < total / 2
        assert settings["maxmemory-policy"] == "noeviction"
    finally:
        process.terminate()
        process.wait(10)
