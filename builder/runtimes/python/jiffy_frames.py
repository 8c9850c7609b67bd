"""Frames on the agent's connections: two lengths, metadata as JSON, a raw payload (ARCHITECTURE.md, "The channel").

Standard library only; it lies in the image as /var/runtime/jiffy_frames.py.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

HEADER = struct.Struct(">II")


def exactly(sock: socket.socket, size: int) -> bytearray | None:
    """`size` bytes, or None when the connection ended."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        n = sock.recv_into(view[got:])
        if not n:
            return None
        got += n
    return data


def read_frame(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    header = exactly(sock, 8)
    if header is None:
        return None
    meta_size, size = HEADER.unpack(header)
    data = exactly(sock, meta_size + size)
    return None if data is None else (json.loads(data[:meta_size]), bytes(data[meta_size:]))


def read_call(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Like read_frame, mostly in one system call: an instance is never sent a frame before it answered the last."""
    data: bytes | bytearray = sock.recv(65536)
    if not data:
        return None
    if len(data) < 8:
        rest = exactly(sock, 8 - len(data))
        if rest is None:
            return None
        data = data + rest
    meta_size, size = HEADER.unpack_from(data)
    missing = 8 + meta_size + size - len(data)
    if missing > 0:
        rest = exactly(sock, missing)
        if rest is None:
            return None
        data = data + rest
    return json.loads(data[8 : 8 + meta_size]), bytes(data[8 + meta_size :])


def frame(meta: bytes, payload: bytes) -> bytes:
    return HEADER.pack(len(meta), len(payload)) + meta + payload


def send_frame(sock: socket.socket, meta: bytes, payload: bytes = b"") -> None:
    head = HEADER.pack(len(meta), len(payload)) + meta
    if len(payload) < 65536:
        sock.sendall(head + payload)
    else:
        sock.sendall(head)
        sock.sendall(payload)
