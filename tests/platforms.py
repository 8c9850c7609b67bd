"""A whole platform for tests: a real `jiffy up` with a data folder of its own, and what is left when it has ended.

with platform(folder, "--sandbox", "bwrap") as up:
    up.jiffy("deploy", str(source)); up.get("/function/hello")
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

JIFFY = [sys.executable, "-P", "-m", "jiffy.cli.main"]
READY = re.compile(r"jiffy is ready at (http://\S+)  \(sandbox: (\w+), data: (.+)\)\n")
END_S = 40.0


class Up:
    """One `jiffy up`, from start to end; can be started again on the same data."""

    def __init__(self, data: Path, *options: str, **env: str) -> None:
        self.data = data
        self.options = options
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("JIFFY_")} | env
        self.errors = data.with_name(data.name + ".stderr")
        self.url = ""
        self.sandbox = ""

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*JIFFY, "up", "--port", "0", "--data", str(self.data), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.env,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        ready = READY.fullmatch(line)
        assert ready, f"{line!r}\n{self.told()}\n{self.logs()}"
        self.url, self.sandbox = ready[1], ready[2]
        assert ready[3] == str(self.data)
        key = self.env.get("JIFFY_API_KEY")
        self.http = httpx.Client(
            base_url=self.url, timeout=40, trust_env=False, headers={"x-api-key": key} if key else {}
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits; the exit code. Nothing may be printed after the ready line."""
        self.http.close()
        self.process.send_signal(number)
        status = self.process.wait(END_S)
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.read() == b""
        return status

    def kill(self) -> None:
        """As `kill -9` does, and waits until all of its processes have ended."""
        family = [os.pidfd_open(pid) for pid in self.family()]
        self.stop(signal.SIGKILL)
        for fd in family:
            ended, _, _ = select.select([fd], [], [], END_S)
            os.close(fd)
            assert ended, "a process outlived its supervisor"

    def told(self) -> str:
        return self.errors.read_text()

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.data.glob("logs/*.log")))

    # --- using it -------------------------------------------------------------------------------------------------

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def invoke(self, name: str, event: Any = None, **params: str) -> httpx.Response:
        return self.http.post(
            f"/v1/functions/{name}/invocations", json=event if event is not None else {}, params=params
        )

    def jiffy(self, *words: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A `jiffy` command against this platform, which must end with this exit code."""
        env = self.env | {"JIFFY_URL": self.url}
        done = subprocess.run([*JIFFY, *words], env=env, input=stdin, capture_output=True, text=True)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.jiffy(*words, "--json", status=status).stdout)

    def deploy(self, folder: Path, toml: str, **files: str) -> str:
        """Writes a folder (a file's "__" is its last dot) and deploys it; what the command printed."""
        folder.mkdir(exist_ok=True)
        (folder / "jiffy.toml").write_text(toml)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return self.jiffy("deploy", str(folder)).stdout

    # --- what there is of it --------------------------------------------------------------------------------------

    def family(self, head: int = 0) -> list[int]:
        """All processes under the supervisor, or under `head`."""
        parents = {pid: _parent(pid) for pid in _pids()}
        head = head or self.process.pid
        family, grown = {head}, True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            family |= more
            grown = bool(more)
        return sorted(family - {head})

    def child(self, name: str) -> int:
        """The pid of one of the platform's own processes; 0 when there is none now."""
        for pid in self.family():
            words = _words(pid)
            if words[1:4] == ["-P", "-m", "jiffy.child"] and words[5] in (name, f"gateway.{name}"):
                return pid
            if name == "valkey" and words and "valkey-server" in words[0]:
                return pid
        return 0

    def left(self) -> list[str]:
        """Processes, mounts, sockets, containers that still know the data folder."""
        data = str(self.data)
        found = [f"process {pid}" for pid in _pids() if any(data in word for word in _words(pid))]
        found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if data in line]
        found += [f"socket {line}" for line in Path("/proc/net/unix").read_text().splitlines() if data in line]
        found += [f"file {path}" for path in self.data.rglob("*") if path.is_socket()]
        identity = self.data / "invoker-id"
        if self.sandbox == "docker" and identity.exists():
            label = f"label=jiffy.invoker={identity.read_text().strip()}"
            command = ["docker", "ps", "-aq", "--filter", label]
            found += [f"container {one}" for one in subprocess.check_output(command, text=True).split()]
        return found


@contextlib.contextmanager
def platform(data: Path, *options: str, **env: str) -> Iterator[Up]:
    """A running platform; when the test is over it must end in good order."""
    up = Up(data, *options, **env)
    up.start()
    try:
        yield up
    finally:
        if up.process.poll() is None:
            assert up.stop() == 0, up.told()


def until(true: Any, within_s: float = 20.0) -> None:
    """Waits for what only another process can bring about."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.02)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
