"""Hosts with addresses of their own: network namespaces on one bridge, each of which can be cut off or lose packets.

    with Network() as network:
        host = network.host()
        subprocess.Popen([*host.enter, "python", "-m", "gateway", "--host", host.address, …])
        host.lose(0.2)

Packets are lost by iptables' statistic match, which every kernel with iptables has; netem many lack. Root only. All of
it is named after this process and gone at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

TOOLS = ("ip", "nsenter", "iptables")


def trouble() -> str:
    """Why there can be no hosts of our own; "" when there can."""
    if os.geteuid() != 0:
        return "hosts in network namespaces need root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"hosts in network namespaces need {missing[0]}, which is not installed" if missing else ""


class Host:
    """One namespace. `enter` is what stands before a command that shall run there."""

    def __init__(self, name: str, address: str, redis: str) -> None:
        self._name = name
        self.address = address
        self.enter = ["nsenter", f"--net=/run/netns/{name}"]  # `ip netns exec` would hide the control groups, too
        self.url = redis

    async def start(self) -> None:
        """There is nothing to start; a wire has."""

    async def close(self) -> None:
        """The network takes it down."""

    def cut(self, on: bool) -> None:
        """Its connections end, and new ones are refused."""
        reset = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
        self._rule(on, "INPUT", *reset)
        self._rule(on, "OUTPUT", *("-p", "tcp", "!", "--tcp-flags", "RST", "RST"), *reset[2:])

    def stall(self, on: bool) -> None:
        """Nothing gets through, and nobody is told."""
        self._rule(on, "INPUT", "-j", "DROP")
        self._rule(on, "OUTPUT", "-j", "DROP")

    def lose(self, on: bool, share: float) -> None:
        """That share of its packets does not get through, either way."""
        some = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}", "-j", "DROP")
        self._rule(on, "INPUT", *some)
        self._rule(on, "OUTPUT", *some)

    def _rule(self, on: bool, chain: str, *rule: str) -> None:
        side = ("-i", "eth0") if chain == "INPUT" else ("-o", "eth0")
        _run(*self.enter, "iptables", "-w", "-A" if on else "-D", chain, *side, *rule)


class Network:
    """See the module. `address` is the bridge's: what listens there is reached by all hosts."""

    def __init__(self) -> None:
        number = os.getpid() % (64 * 256)
        self._subnet = f"10.{64 + number // 256}.{number % 256}"
        self._name = f"jfy{os.getpid():x}"
        self.address = f"{self._subnet}.1"
        self._hosts: list[str] = []

    def __enter__(self) -> Network:
        try:
            _run("ip", "link", "add", self._name, "type", "bridge")
            _run("ip", "addr", "add", f"{self.address}/24", "dev", self._name)
            _run("ip", "link", "set", self._name, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self._hosts, 2):
            _drop("ip", "link", "del", f"{self._name}v{number}")  # a process that lives on would keep its host's
            _drop("ip", "netns", "del", name)
        _drop("ip", "link", "del", self._name)

    def host(self, redis: str) -> Host:
        """One more; `redis` is the URL that its process is given."""
        number = len(self._hosts) + 2
        name, veth, address = f"{self._name}-{number}", f"{self._name}v{number}", f"{self._subnet}.{number}"
        _run("ip", "netns", "add", name)
        self._hosts.append(name)
        host = Host(name, address, redis)
        _run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", veth, "master", self._name, "up")
        for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _run("ip", "-n", name, *command.split())
        return host


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _drop(*command: str) -> None:
    with contextlib.suppress(RuntimeError):
        _run(*command)
