"""The wire to an agent that may say anything: whole frames, torn frames, no frames."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from invoker import channel
from invoker.channel import HEADER, META_MAX_BYTES, Channel, Log, encode

PAYLOAD_MAX = 1_000_000


class Peer:
    """Both ends of a connection, and what our end heard."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.lost: list[str] = []
        self.heard = asyncio.Event()
        self.channel = Channel(ours, self._frame, self._lost, payload_max=PAYLOAD_MAX)

    def _frame(self, meta: dict[str, Any], payload: bytes) -> None:
        self.frames.append((meta, payload))
        self.heard.set()

    def _lost(self, why: str) -> None:
        self.lost.append(why)
        self.heard.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self.heard.wait()
        self.heard.clear()


@pytest.fixture
async def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.channel.close()
    peer.sock.close()


async def test_frames_arrive_whole_however_they_are_cut(peer: Peer) -> None:
    expected = [({"t": "ok", "us": i}, bytes([i]) * i * 1000) for i in range(5)]
    stream = b"".join(encode(*frame) for frame in expected)
    for cut in (1, 7, 8, 9, 30, 4096, len(stream)):
        peer.frames.clear()
        for at in range(0, len(stream), cut):
            peer.sock.sendall(stream[at : at + cut])
            peer.channel.drain()
        assert peer.frames == expected, cut
    assert peer.lost == []


async def test_the_kernel_says_who_spoke_first(peer: Peer) -> None:
    peer.sock.sendall(encode({"t": "ready", "pid": 1}))
    await peer.next()
    assert peer.channel.peer_pid == os.getpid()


async def test_a_large_frame_goes_out_as_the_peer_reads(peer: Peer) -> None:
    payload = os.urandom(6 << 20)
    peer.channel.send({"t": "call"}, payload)
    peer.channel.send({"t": "next"})
    expected = encode({"t": "call"}, payload) + encode({"t": "next"})

    def read() -> bytes:
        got = bytearray()
        while len(got) < len(expected):
            got += peer.sock.recv(1 << 20)
        return bytes(got)

    assert await asyncio.to_thread(read) == expected


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 8,
        HEADER.pack(META_MAX_BYTES + 1, 0),
        HEADER.pack(2, PAYLOAD_MAX + 1),
        HEADER.pack(4, 0) + b"nope",
        HEADER.pack(2, 0) + b"[]",
        HEADER.pack(0, 0),
        HEADER.pack(3, 0) + b"{}}",
        HEADER.pack(2, 0) + b"\xff\xfe",
        HEADER.pack(60_000, 0) + b"[" * 60_000,
    ],
)
async def test_garbage_ends_the_connection_once(peer: Peer, garbage: bytes) -> None:
    peer.sock.sendall(encode({"t": "ok"}) + garbage + encode({"t": "never"}))
    await peer.next()
    peer.channel.drain()
    assert [meta["t"] for meta, _ in peer.frames] == ["ok"]
    assert peer.lost == ["garbage"]
    assert peer.channel.closed
    peer.channel.send({"t": "into the void"})


async def test_a_frame_that_only_claims_to_be_large_takes_no_memory(peer: Peer) -> None:
    before = _resident()
    peer.sock.sendall(struct.pack(">II", 2, PAYLOAD_MAX) + b"{}")
    peer.channel.drain()
    peer.sock.close()
    await peer.next()
    assert peer.lost == ["closed"]
    assert _resident() - before < PAYLOAD_MAX // 2


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_what_was_said_before_the_end_is_heard(peer: Peer) -> None:
    peer.sock.sendall(encode({"t": "ok"}, b"last"))
    peer.sock.close()
    peer.channel.drain()
    assert (peer.frames, peer.lost) == ([({"t": "ok"}, b"last")], ["closed"])


async def test_a_log_gives_what_came_since_the_last_read() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    log = Log(ours)
    assert log.read() == b""
    theirs.sendall(b"one")
    assert log.read() == b"one"
    theirs.sendall(b"two")
    theirs.close()
    assert log.read() == b"two"
    assert log.read() == b""
    log.close()


async def test_a_log_never_holds_more_than_its_buffer() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    log = Log(ours)
    size = channel.LOG_BUFFER_BYTES + 500_000
    await asyncio.to_thread(theirs.sendall, b"x" * size)  # the loop reads meanwhile: the writer never waits for us
    theirs.close()
    assert len(log.read()) == channel.LOG_BUFFER_BYTES
    assert log.dropped_bytes == 500_000
    log.close()


def test_a_frame_is_two_lengths_a_json_object_and_raw_bytes() -> None:
    frame = encode({"t": "call", "id": "é"}, b"\0\1")
    meta_size, size = HEADER.unpack_from(frame)
    assert json.loads(frame[8 : 8 + meta_size]) == {"t": "call", "id": "é"}
    assert (frame[8 + meta_size :], size) == (b"\0\1", 2)
