"""The network of functions that want one: a bridge of the engine's, and a firewall between it and the platform.

Functions reach the world, not each other, and not this host: whatever comes from the bridge to an address of the host's
own is refused, and so is what goes to a place that is `off_limits` (the queue, when it is on another host) or to
link-local addresses (a cloud's metadata service). The rules stand in the host's iptables, where no function can touch
them, but others may: `guard` looks at them before each start. Without them there is no network: `open` says whether
they can be set.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from jiffy.contract.errors import SandboxFailed

HERE, PASSING = "INPUT", "FORWARD"  # chains: what goes to this host; what goes to others
BEYOND = "DOCKER-USER"  # the second's first part, before the engine lets it pass
LINK_LOCAL = "169.254.0.0/16"
METADATA = "168.63.129.16", "100.100.100.200", "192.0.0.192"  # the same of Azure, Alibaba and Oracle, elsewhere
SBIN = ":/usr/sbin:/sbin"  # where iptables is, and an ordinary PATH does not lead
RULE_MAX_S = 10.0
LOCK_S = "5"  # others change rules, too

Rule = tuple[str, tuple[str, ...]]  # a chain, and what iptables is told


class Bridge:
    """`owner`: the label of what this invoker makes in the engine, and its own name."""

    def __init__(self, owner: tuple[str, str], off_limits: Iterable[tuple[str, int]]) -> None:
        self._label, invoker = owner
        self._invoker = invoker
        self._off_limits = tuple(off_limits)
        self._rules: tuple[Rule, ...] | None = None  # its addresses are as they were when they were first wanted
        self.name = f"jiffy-{zlib.crc32(invoker.encode()):08x}"  # of the interface too; 15 characters at most

    def open(self, client: Any) -> str:
        """Remove what an earlier invoker left; why functions can't have a network here, "" if they can."""
        self.remove(client)
        try:
            _iptables("-S", BEYOND)
        except SandboxFailed as exc:
            return exc.message
        return ""

    def make(self, client: Any) -> str:
        """The network's name; nothing is to be started on it before `guard`. Raises what the engine raises."""
        options = {
            "com.docker.network.bridge.name": self.name,
            "com.docker.network.bridge.enable_icc": "false",
        }
        labels = {self._label: self._invoker}
        client.networks.create(self.name, driver="bridge", options=options, labels=labels, check_duplicate=True)
        return self.name

    def guard(self) -> None:
        """See to it that all rules stand: a firewall that is flushed or loaded anew has lost them. Raises SandboxFailed
        when they can't be set.
        """
        if self._rules is None:
            self._rules = tuple(self._wanted())
        for chain, words in self._rules:
            with contextlib.suppress(SandboxFailed):
                _iptables("-C", chain, *words)
                continue
            try:
                _iptables("-I", chain, *words)
            except SandboxFailed as exc:
                raise SandboxFailed(f"functions get no network, their firewall can't be set: {exc.message}") from exc

    def remove(self, client: Any) -> None:
        """The network and its rules, in this order. Raises what the engine raises."""
        for left in client.networks.list(filters={"label": f"{self._label}={self._invoker}"}):
            left.remove()
        try:
            for chain in (HERE, BEYOND):
                for rule in _iptables("-S", chain).splitlines():
                    words = shlex.split(rule)
                    if self.name in words:
                        _iptables("-D", *words[1:])
        except SandboxFailed:
            pass  # who may not set rules has set none

    def _wanted(self) -> Iterator[Rule]:
        come = "-i", self.name
        yield PASSING, ("-j", BEYOND)  # the engine's own, without which those of BEYOND hold nothing
        yield HERE, (*come, "-j", "REJECT")
        yield BEYOND, (*come, "-o", self.name, "-j", "REJECT")  # as the engine has it, too, until that is flushed
        yield BEYOND, (*come, "-d", LINK_LOCAL, "-j", "REJECT")
        for address in METADATA:  # Azure's answers names there, too
            yield BEYOND, (*come, "-d", address, "-p", "tcp", "!", "--dport", "53", "-j", "REJECT")
        for host, port in self._off_limits:
            for address in _addresses(host):
                yield BEYOND, (*come, "-d", address, "-p", "tcp", "--dport", str(port), "-j", "REJECT")


def _addresses(host: str) -> list[str]:
    """IPv4 only: a sandbox has no other."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as exc:
        raise SandboxFailed(f"functions get no network: where {host} is can't be found out: {exc}") from exc
    return sorted({str(address[4][0]) for address in found})


def _iptables(*words: str) -> str:
    tool = shutil.which("iptables", path=os.environ.get("PATH", "") + SBIN)
    if tool is None:
        raise SandboxFailed("there is no iptables")
    try:
        command = [tool, "-w", LOCK_S, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RULE_MAX_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SandboxFailed(f"iptables: {exc}") from exc
    if done.returncode:
        raise SandboxFailed(f"iptables: {done.stderr.strip() or done.returncode}")
    return done.stdout
