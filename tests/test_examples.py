"""The examples that other software takes part in: their READMEs' commands, against real servers of its kind."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.elsewhere import another_host
from tests.platforms import Up, platform, until
from tests.triggers.brokers import RABBITMQ, rabbit_server

pytestmark = pytest.mark.redis
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def copy(name: str, into: Path, changes: dict[str, str]) -> Path:
    """The example in a folder of the same name, with other words in its jiffy.toml."""
    folder = into / "examples" / name
    shutil.copytree(EXAMPLES / name, folder)
    toml = folder / "jiffy.toml"
    text = toml.read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    toml.write_text(text)
    return folder


def commands(name: str) -> list[list[str]]:
    """What the README says is to be typed."""
    blocks = re.findall(
        r"^```(?:sh)?\n(.*?)^```", (EXAMPLES / name / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def logged(up: Up, *words: str) -> str:
    return up.jiffy(*words).stdout


@pytest.mark.root  # as RabbitMQ's own script wants it
def test_orders_go_from_rabbitmq_to_the_shipper_and_what_is_none_to_the_dead(data_dir: Path, tmp_path: Path) -> None:
    need("" if RABBITMQ.exists() else "no RabbitMQ server here")
    *_, deploy, send, ship, complain, triggers, bill = commands("orders")
    with rabbit_server() as broker, platform(data_dir, "--sandbox", "bwrap") as up:
        folder = copy("orders", tmp_path, {"amqp://guest:guest@127.0.0.1:5672": broker})
        up.jiffy("deploy", str(folder)) if deploy[:2] == ["jiffy", "deploy"] else pytest.fail(str(deploy))
        until(lambda: all(t["state"] == "active" for t in up.json("triggers", "list")["triggers"]), 60)
        subprocess.run([sys.executable, str(folder / "send.py"), f"{broker}/", *send[2:]], check=True, timeout=60)
        until(lambda: "order 17 is shipped, 45 to pay" in logged(up, *ship[1:]), 60)
        until(lambda: "nobody could check 'not an order'" in logged(up, *complain[1:]), 60)
        assert "check-orders/orders" in logged(up, *triggers[1:])
        until(lambda: "dead" in logged(up, *bill[1:]))


@pytest.mark.docker
@pytest.mark.root
def test_a_short_link_leads_where_it_should_and_counts(data_dir: Path, tmp_path: Path) -> None:
    need("" if shutil.which("redis-server") else "no redis-server here")
    with another_host() as host, platform(data_dir, "--sandbox", "docker") as up:
        words = [*host.enter, "redis-server", "--bind", host.address, "--protected-mode", "no", "--save", ""]
        with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
            up.jiffy("deploy", str(copy("url-shortener", tmp_path, {"192.0.2.7": host.address})))
            try:
                made = up.http.post("/s", json={"url": "https://www.python.org/about/"})
                assert made.status_code == 201, made.text
                short = made.json()["short"]
                for _ in range(2):
                    led = up.get(short)
                    assert (led.status_code, led.headers["location"]) == (302, "https://www.python.org/about/")
                assert up.get(f"{short}/visits").json()["visits"] == 2
                assert up.get("/s/nowhere").status_code == 404
                assert up.http.post("/s", json={"url": "javascript:alert(1)"}).status_code == 400
                assert "GET /s/{code}" in up.jiffy("bill", "--by", "route").stdout
            finally:
                server.terminate()


@pytest.mark.timeout(240)
def test_images_in_a_folder_become_thumbnails_that_a_second_function_hears_of(data_dir: Path, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    source = copy("image-pipeline", tmp_path, {"/tmp/incoming": str(incoming)})
    toml = source / "jiffy.toml"
    made, up, deploy, put, *rest = commands("image-pipeline")
    assert (made[0], up[:3], deploy[:2], put[0]) == ("mkdir", ["jiffy", "up", "--files"], ["jiffy", "deploy"], "cp")
    with platform(data_dir, "--sandbox", "bwrap", "--files", str(incoming)) as running:
        running.jiffy("deploy", str(source))
        shutil.copy(EXAMPLES.parent / put[1], incoming)
        (incoming / "broken.png").write_text("no image")
        (incoming / "notes.txt").write_text("no image, and nobody asked for it")

        def shown() -> Any:
            return running.get("/v1/triggers/thumbs/files").json()

        # One image is called for, and three times what is none; then the second function hears of the thumbnail.
        until(lambda: (shown()["fired"], shown()["dead"]) == (4, 1), within_s=60)
        until(lambda: running.get("/v1/triggers/gallery/topic").json()["fired"] == 1, within_s=60)
        log, triggers, events = [logged(running, *words[1:]) for words in rest]
        assert "photo.jpg: 128x85" in log and "thumbs/files" in triggers and '"name": "photo.jpg"' in events
        assert "broken.png" in running.jiffy("topics", "events", "dead.thumbs.files").stdout
        toml.write_text(toml.read_text().replace(str(incoming), "/etc"))
        why = running.jiffy("deploy", str(source), status=1).stderr
        assert "/etc may not be watched; start the platform with --files /etc" in why
