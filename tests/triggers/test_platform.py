"""A whole platform: a schedule, a list and a topic call a function, and the bill says which."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import redis

from tests import servers
from tests.platforms import platform, until
from tests.triggers.brokers import free_port

TOML = """
[functions.listen]
handler = "listen:handler"

[[functions.listen.triggers]]
type = "schedule"
cron = "* * * * * *"

[[functions.listen.triggers]]
type = "queue"
source = "redis+list://127.0.0.1:{port}/0/jobs"

[[functions.listen.triggers]]
type = "topic"
topic = "orders.*"
"""
CODE = """
def handler(event, context):
    print(event.get("detail-type") or event.get("type") or [r["body"] for r in event["Records"]])
"""


EXAMPLE = Path(__file__).parents[2] / "examples/report"


def test_the_examples_readme_is_true(data_dir: Path) -> None:
    commands = re.findall(r"^jiffy (.+)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    *first, logs, events = [shlex.split(command) for command in commands]
    with platform(data_dir, "--sandbox", "bwrap") as up:
        for words in first:
            up.jiffy(*[str(EXAMPLE) if word == "examples/report" else word for word in words])
            if words[0] == "deploy":
                until(lambda: up.get("/v1/topics/orders").status_code == 200)
        until(lambda: "120 were paid" in up.jiffy(*logs).stdout and "the report of the night" in up.jiffy(*logs).stdout)
        assert "20 were paid" not in up.jiffy(*logs).stdout.replace("120 were paid", "")
        until(lambda: '"amount": 120' in up.jiffy(*events).stdout)


def test_each_kind_of_trigger_calls_the_function_and_stands_on_the_bill(
    data_dir: Path, tmp_path: Path, redis_server: servers.RedisServer, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as jobs, platform(data_dir, "--sandbox", "bwrap") as up:
        port = int(jobs.config_get("port")["port"])
        if not port:
            jobs.config_set("port", port := free_port())
        jobs.rpush("jobs", "a job")
        up.deploy(tmp_path / "app", TOML.format(port=port), listen__py=CODE)

        def one(name: str) -> dict[str, Any]:
            found = up.json("triggers", "show", f"listen/{name}")
            assert isinstance(found, dict)
            return found

        until(lambda: one("topic")["state"] == "active" and one("queue")["fired"])
        up.jiffy("topics", "publish", "orders.paid", "--type", "order.paid", '{"n": 1}')
        until(lambda: one("topic")["fired"] and one("schedule")["fired"] >= 2)
        listed = up.jiffy("triggers", "list").stdout
        assert "listen/queue" in listed and f"redis+list://127.0.0.1:{port}/0/jobs" in listed
        printed = up.jiffy("logs", "listen").stdout
        assert all(part in printed for part in ("['a job']", "Scheduled Event", "order.paid"))
        up.jiffy("triggers", "pause", "listen/schedule")
        assert one("schedule")["state"] == "paused"
        triggers = {call["trigger"] for call in up.json("bill", "--by", "call")["rows"]}
        assert {"schedule schedule", "queue queue", "topic topic"} <= triggers
        assert "fired" in up.jiffy("triggers", "logs", "listen/schedule").stdout
        assert up.jiffy("triggers", "show", "listen", status=1).stderr.startswith("jiffy: listen has 3 triggers")
