"""Registries that mean no good: how much, how often and how long they may send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.pull import pull
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed
from tests.builder.archives import digest


class Registry:
    """It has one image, test:1, of the layers that it is given, and counts what it is asked for."""

    def __init__(self) -> None:
        self.layers: list[bytes] = []
        self.asked: list[str] = []
        self.slow = ""  # "head" or "body": what comes byte by byte, and never whole
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.name = f"127.0.0.1:{self.server.server_port}/test:1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                if registry.slow:
                    self._drip(b"HTTP/1.1 200 OK\r\nX: " if registry.slow == "head" else b"HTTP/1.1 200 OK\r\n\r\n")
                    return
                body = registry.documents()[self.path.rpartition("/")[2]]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _drip(self, first: bytes) -> None:
                self.close_connection = True
                try:
                    self.connection.sendall(first)
                    while not registry.closing.wait(0.05):
                        self.connection.sendall(b"x")
                except OSError:
                    return  # the other side has had enough

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def documents(self) -> dict[str, bytes]:
        """What it has, by digest; the manifest by its tag."""
        config = b"{}"
        manifest = {"config": {"digest": digest(config)}, "layers": [{"digest": digest(one)} for one in self.layers]}
        parts = {digest(one): one for one in (config, *self.layers)}
        return {"1": json.dumps(manifest).encode(), **parts}


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.closing.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def test_a_layer_is_fetched_once_and_all_have_one_bound(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IMAGE_MAX_BYTES", 1000)
    registry.layers = [b"a" * 600, b"b" * 300, b"a" * 600]
    fetched = pull(registry.name, tmp_path / "fits", "", trusted=True)
    assert [path.read_bytes() for path in fetched.layers] == registry.layers
    assert len(registry.asked) == len(set(registry.asked)) == 4
    registry.layers = [b"a" * 600, b"b" * 600]
    with pytest.raises(BuildFailed, match="sends more than an image may have"):
        pull(registry.name, tmp_path / "more", "", trusted=True)


@pytest.mark.parametrize("slow", ["head", "body"])
def test_a_registry_that_never_comes_to_an_end_is_left(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    monkeypatch.setattr(limits, "BUILD_MAX_S", 1.0)
    registry.slow = slow
    with pytest.raises(BuildFailed, match=r"image: 127\.0\.0\.1:\d+ took longer than 1 s"):
        pull(registry.name, tmp_path / "image", "", trusted=True)
