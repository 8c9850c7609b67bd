"""A platform of the benchmark's own: a fresh `jiffy up`, functions written to a folder and deployed with the CLI."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JIFFY = [sys.executable, "-m", "jiffy.cli.main"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform, and a scratch folder for sources."""

    port: int
    folder: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """The JSON document at `path`."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str) -> Any:
        """The JSON document that an empty POST to `path` is answered with."""
        with urllib.request.urlopen(self.url + path, b"", timeout=30) as answer:
            return json.load(answer)

    def deploy(self, name: str, functions: dict[str, str], files: dict[str, str], api_key: str = "") -> float:
        """Deploy functions (name → the lines of its table) with `files` as source; seconds the command took."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for path, text in files.items():
            (folder / path).write_text(text)
        tables = [f"[functions.{function}]\n{lines}\n" for function, lines in functions.items()]
        (folder / "jiffy.toml").write_text("\n".join(tables))
        env = os.environ | {"JIFFY_URL": self.url} | ({"JIFFY_API_KEY": api_key} if api_key else {})
        began = time.perf_counter()
        done = subprocess.run([*JIFFY, "deploy", str(folder)], env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"deploy of {name} failed:\n{done.stdout}{done.stderr}")
        return time.perf_counter() - began

    def processes(self) -> list[int]:
        """Every process of the platform that this host's kernel shows below it; an engine's containers are none."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        """The processor time of all that run now."""
        spent_ns = 0
        for pid in self.processes():
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    spent_ns += int(file.read_text().split()[0])
        return spent_ns / 1e9

    def stems(self) -> int:
        """Stems that stand ready on all hosts."""
        return sum(sum(host["stems"].values()) for host in self.get("/v1/status")["invokers"])

    def wait_for_stems(self, count: int = 1) -> None:
        """Until a heartbeat that is younger than the last call says so."""
        time.sleep(1.2)  # two heartbeats: what is read before may still count the stem that was just taken
        deadline = time.monotonic() + 60
        while self.stems() < count:
            if time.monotonic() > deadline:
                raise RuntimeError("no stem became ready within a minute")
            time.sleep(0.05)


@contextlib.contextmanager
def platform(sandbox: str, *options: str) -> Iterator[Platform]:
    """A fresh platform with an empty data folder; stopped, and its folder removed, at the end."""
    with tempfile.TemporaryDirectory(prefix="jiffy-bench-") as scratch:
        folder = Path(scratch)
        port = free_port()
        command = [*JIFFY, "up", "--port", str(port), "--data", str(folder / "data"), "--sandbox", sandbox, *options]
        with (folder / "up.log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            if "ready" not in process.stdout.readline():
                raise RuntimeError(f"jiffy up did not start:\n{(folder / 'up.log').read_text()}")
            yield Platform(port, folder, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)
