"""A Docker engine of a test's own, to be stopped, hung and started again; gone when closed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker

START_S = 30.0


class Engine:
    """One dockerd with its own containerd, data and socket. `url` stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "-H", self.url)
        silent = ("--pidfile", f"{self.folder}/pid", "--bridge", "none", "--iptables=false", "--ip6tables=false")
        with (self.folder / "log").open("ab") as log:
            # without a bridge it removes docker0: in a network of its own, or the host's engine would lose its
            command = ["unshare", "--net", "dockerd", *places, *silent]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up = time.monotonic() + START_S
        while True:
            with contextlib.suppress(docker.errors.DockerException, OSError):
                client = docker.DockerClient(self.url, timeout=2)
                try:
                    client.ping()
                    return
                finally:
                    client.close()
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"no engine of our own:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """In good order: it ends its containers first."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(START_S)
            self._process = None

    def hang(self) -> None:
        """It answers nobody, and is there."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """A running engine without images and containers."""
    folder = Path(tempfile.mkdtemp(prefix="jiffy-test-engine-"))
    one = Engine(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4]
            if point.startswith(str(folder)):
                subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def trouble() -> str:
    """Why there can be no engine of our own; "" when there can."""
    if os.geteuid() != 0:
        return "an engine of our own needs root"
    missing = [name for name in ("dockerd", "unshare") if not shutil.which(name)]
    return f"there is no {missing[0]} to start" if missing else ""
