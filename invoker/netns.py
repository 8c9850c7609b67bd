"""Sockets inside a sandbox's network namespace, made from outside: no program of ours has to run in there.

A socket stays in the namespace where it was opened, whoever holds it. So a thread goes in, opens one, and ends. It
takes half a millisecond. What is spoken over it: runtime_api.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jiffy.contract.errors import SandboxFailed

CLONE_NEWNET = 0x40000000
IP_FREEBIND = 15  # <linux/in.h>: the loopback interface may still be down
BACKLOG = 16
CONNECT_MAX_S = 1.0  # on a loopback interface
_libc = ctypes.CDLL(None, use_errno=True)


async def listen(pid: int, host: str, port: int) -> socket.socket:
    """A listener on `host`:`port`, as the process `pid` sees it. Raises SandboxFailed; it takes root."""
    try:
        return await _inside(_listen, pid, host, port)
    except OSError as exc:
        raise SandboxFailed(f"the Runtime API can't be served into a sandbox: {exc.strerror}") from exc


async def connect(pid: int, host: str, port: int) -> socket.socket:
    """A connection to `host`:`port`, as the process `pid` sees it. Raises OSError: nobody listens, or it takes root."""
    return await _inside(_connect, pid, host, port)


async def _inside(make: Callable[[int, str, int], socket.socket], pid: int, host: str, port: int) -> socket.socket:
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:  # its thread is in no namespace of ours any more
        return await asyncio.get_running_loop().run_in_executor(thread, make, pid, host, port)


def _connect(pid: int, host: str, port: int) -> socket.socket:
    _enter(pid)
    connection = socket.create_connection((host, port), CONNECT_MAX_S)
    connection.setblocking(False)
    return connection


def _enter(pid: int) -> None:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(namespace)


def _listen(pid: int, host: str, port: int) -> socket.socket:
    _enter(pid)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
