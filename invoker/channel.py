"""The two kinds of connection to an agent: framed (control, instance) and raw (what a function prints).

Bytes in and out of non-blocking sockets on the running loop, straight from its readiness callbacks: a warm call then
costs one send and one recv, with no transport, task or future of its own in between, and the first frame of an
instance can be read together with the sender's credentials, which transports hide. The peer is hostile: sizes are
checked before anything is allocated, and whatever is no frame ends the connection. What frames mean: instance.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct(">II")
CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
META_MAX_BYTES = 64 * 1024  # far above any metadata of ours
READ_BYTES = 64 * 1024
LARGE_READ_BYTES = 512 * 1024  # of a frame that is known to be large
LOG_BUFFER_BYTES = 2 * 1024 * 1024  # what a function may print between two reads before output is dropped
_dumps = json.JSONEncoder(separators=(",", ":")).encode
_loads = json.JSONDecoder().decode

FrameHandler = Callable[[dict[str, Any], bytes], None]


def encode(meta: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame."""
    text = _dumps(meta).encode()
    return b"".join((HEADER.pack(len(text), len(payload)), text, payload))


class Channel:
    """A framed connection. `on_lost` is called once, with why: "closed" by the peer, or "garbage" from it."""

    __slots__ = (
        "_buffer",
        "_fd",
        "_loop",
        "_max",
        "_on_frame",
        "_on_lost",
        "_pending",
        "_sock",
        "_total",
        "peer_pid",
    )

    def __init__(
        self, sock: socket.socket, on_frame: FrameHandler, on_lost: Callable[[str], None], *, payload_max: int
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._max = payload_max
        self._buffer: bytearray | None = None  # of a frame that has not come whole yet
        self._total = 0  # its whole size, as far as that is known
        self._pending: deque[memoryview] = deque()
        self.peer_pid = 0  # who sent the first frame, as this host's kernel numbers it; 0: unknown
        self._loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def send(self, meta: dict[str, Any], payload: bytes = b"") -> None:
        """Send one frame; what the socket does not take now goes out when it can."""
        if self._fd < 0:
            return
        data = encode(meta, payload)
        if not self._pending:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                return  # the reader sees the end as well, after what the peer still said
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._fd, self._flush)
        self._pending.append(memoryview(data))

    def _flush(self) -> None:
        pending = self._pending
        try:
            while pending:
                sent = self._sock.send(pending[0])
                if sent < len(pending[0]):
                    pending[0] = pending[0][sent:]
                else:
                    pending.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pending.clear()
        self._loop.remove_writer(self._fd)

    def drain(self) -> None:
        """Deliver every frame that has arrived."""
        while self._fd >= 0 and self._readable():
            pass

    def _readable(self) -> bool:
        """Read once; False when there was nothing to read."""
        try:
            if self._buffer is not None:
                data = self._sock.recv(min(self._total - len(self._buffer), LARGE_READ_BYTES))
            elif self.peer_pid:
                data = self._sock.recv(READ_BYTES)
            else:
                data = self._recv_with_sender()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._lose("closed")
            return False
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) == self._total:
                whole, self._buffer = bytes(self._buffer), None
                self._take(whole)
        else:
            self._take(data)
        return True

    def _recv_with_sender(self) -> bytes:
        data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self.peer_pid = CREDENTIALS.unpack(value)[0]
        self.peer_pid = self.peer_pid or -1
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return data

    def _take(self, data: bytes) -> None:
        """Deliver the frames in `data`; keep the beginning of one that is not whole."""
        at = 0
        while self._fd >= 0 and at < len(data):
            if len(data) - at < 8:
                return self._expect(data[at:], 8)
            meta_size, size = HEADER.unpack_from(data, at)
            if meta_size > META_MAX_BYTES or size > self._max:
                return self._lose("garbage")
            body, end = at + 8 + meta_size, at + 8 + meta_size + size
            if len(data) < end:
                return self._expect(data[at:], end - at)
            try:
                meta = _loads(data[at + 8 : body].decode())
                if type(meta) is not dict:
                    raise ValueError
            except (ValueError, RecursionError):
                return self._lose("garbage")
            self._on_frame(meta, data[body:end])
            at = end
        return None

    def _expect(self, start: bytes, total: int) -> None:
        """Wait for the rest of `total` bytes, of which `start` are here."""
        self._buffer = bytearray(start)  # it grows with what really comes: a lie about the size costs nothing
        self._total = total

    def _lose(self, why: str) -> None:
        if self._fd >= 0:
            self.close()
            self._on_lost(why)

    def end(self) -> None:
        """Say that nothing more will be sent; the peer may still answer."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # it is gone already
                self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close without calling `on_lost`."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
            self._pending.clear()
            self._sock.close()


class Log:
    """What one instance prints. Read as it comes, so that a function never waits for us; bounded, so we never drown."""

    __slots__ = ("_fd", "_loop", "_pieces", "_size", "_source", "dropped_bytes")

    def __init__(self, source: socket.socket | io.FileIO) -> None:
        self._source = source  # it does not block
        self._fd = source.fileno()
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0
        self.dropped_bytes = 0  # beyond LOG_BUFFER_BYTES, since the beginning
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> bool:
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        room = LOG_BUFFER_BYTES - self._size
        if len(data) > room:
            self.dropped_bytes += len(data) - room
            data = data[:room]
        if data:
            self._pieces.append(data)
            self._size += len(data)
        return True

    def read(self) -> bytes:
        """All that was printed and not read yet."""
        for _ in range(LOG_BUFFER_BYTES // READ_BYTES):  # a child may print without end: never wait for it to stop
            if self._fd < 0 or not self._readable():
                break
        if not self._pieces:
            return b""
        text = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return text

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
            self._source.close()
