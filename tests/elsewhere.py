"""Another host: a network namespace with an address of its own, to which this host has a cable. Root's to make."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from tests.conftest import need

_numbers = itertools.count()


class Host(NamedTuple):
    """`address` is its own, `ours` what it sees of this host; `enter`: the words that run a command there."""

    address: str
    ours: str
    enter: tuple[str, ...]


@contextlib.contextmanager
def another_host() -> Iterator[Host]:
    need("" if shutil.which("ip") else "no iproute2 here")
    n = next(_numbers)
    name, net = f"jt{os.getpid()}-{n}", f"198.18.{77 + n}"  # of the range for tests (RFC 2544)
    host = Host(f"{net}.2", f"{net}.1", ("ip", "netns", "exec", name))
    commands = (
        f"ip netns add {name}",
        f"ip link add {name}h type veth peer name {name}n netns {name}",
        f"ip addr add {host.ours}/30 dev {name}h",
        f"ip link set {name}h up",
        f"ip -n {name} addr add {host.address}/30 dev {name}n",
        f"ip -n {name} link set {name}n up",
        f"ip -n {name} link set lo up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, timeout=20)
        yield host
    finally:
        subprocess.run(["ip", "netns", "del", name], timeout=20)
