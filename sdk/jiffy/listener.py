"""The platform's listening socket: opened once by the supervisor, inherited by every gateway.

So a port in use is known before anything starts, and no caller is refused while a gateway is started again.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from .contract.errors import Unavailable

BACKLOG = 2048  # callers that wait while a gateway starts again


def loopback(host: str) -> bool:
    """Do all addresses of `host` stay on this machine?"""
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in _resolve(host, 0))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises Unavailable with the line to show."""
    family, kind, proto, _, address = _resolve(host, port)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise Unavailable(f"port {port} on {host} is in use; choose another with --port (0: any free one)") from exc
        raise Unavailable(f"can't listen on {host} port {port}: {exc.strerror}") from exc
    return sock


def url_of(address: tuple[Any, ...]) -> str:
    """The URL at which this machine reaches a listener with this address."""
    host, port = reachable(address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reachable(address: tuple[Any, ...]) -> tuple[str, int]:
    """Where to connect to: "all addresses" is a place to listen at, not to go to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], str(address[0])), int(address[1])  # noqa: S104


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except OSError as exc:
        raise Unavailable(f"--host {host} is no address of this machine: {exc.strerror or exc}") from exc
