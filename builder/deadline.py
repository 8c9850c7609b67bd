"""An end to everything that a client of httpx does, whoever it speaks with.

Its own time limits are for one read each: a server that sends a byte now and then never breaks them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from jiffy.contract.errors import BuildFailed


class Deadline:
    """While it is open, connections of requests that `trace` hears of end after `seconds`.

    Raises BuildFailed, with `says`, in place of whatever came of that.
    """

    def __init__(self, seconds: float, says: str) -> None:
        self._says = says
        self._timer = threading.Timer(seconds, self._expire)
        self._lock = threading.Lock()
        self._late = False
        self._sockets: list[socket.socket] = []  # copies: TLS puts a new object in the place of the first

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """For the extension "trace" of requests, which tells of new connections among other things."""
        if event == "connection.connect_tcp.complete":
            with self._lock:
                self._sockets.append(info["return_value"].get_extra_info("socket").dup())
                if self._late:
                    self._end()

    def _expire(self) -> None:
        with self._lock:
            self._late = True
            self._end()

    def _end(self) -> None:
        for one in self._sockets:
            with suppress(OSError):  # its peer was faster
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for one in self._sockets:
            one.close()
        if self._late and exc is not None:
            raise BuildFailed(self._says) from exc
