"""An exported image in a container of a real engine, and what it answers."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker


@contextmanager
def running(engine: docker.DockerClient, archive: Path) -> Iterator[int]:
    """The port of a container of the exported image, locked down as far as Docker can."""
    with archive.open("rb") as file:
        (loaded,) = engine.images.load(file)
    container = engine.containers.run(
        loaded.id,
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        ports={"8080/tcp": ("127.0.0.1", None)},
    )
    try:
        container.reload()
        port = int(container.ports["8080/tcp"][0]["HostPort"])
        until_served(container, port)
        yield port
    finally:
        container.remove(force=True)
        engine.images.remove(loaded.id, force=True)


def until_served(container: docker.models.containers.Container, port: int) -> None:
    give_up = time.monotonic() + 30
    while True:
        try:
            ask(port, "GET", "/")
            return
        except (OSError, http.client.HTTPException):
            container.reload()
            if container.status == "exited" or time.monotonic() > give_up:
                raise AssertionError(container.logs().decode()) from None
            time.sleep(0.05)


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
