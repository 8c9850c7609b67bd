"""A real registry on loopback, as Debian packages it: what is pushed lies in a folder of the test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import need

REGISTRY = shutil.which("docker-registry")
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
{more}
"""
USER = "jiffy:secret"
_KNOWN = "jiffy:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@contextmanager
def registry(folder: Path, more: str = "") -> Iterator[str]:
    """HOST:PORT of a registry that keeps what it is given in `folder`."""
    with Registry(folder, more) as one:
        yield one.host


class Registry:
    """One, that can go away and come back at the same address."""

    def __init__(self, folder: Path, more: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.blobs = folder / "blobs"
        self._config = folder / "config.yml"
        self._config.write_text(CONFIG.format(folder=self.blobs, port=port, more=more))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        need("" if REGISTRY else "docker-registry is not installed")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert REGISTRY is not None
        command = [REGISTRY, "serve", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()
                return
            except urllib.error.HTTPError:
                return  # it asks who we are
            except OSError:
                assert self._process.poll() is None and time.monotonic() < give_up, "the registry doesn't start"
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def locked(folder: Path) -> str:
    """The part of a configuration that lets in nobody but USER."""
    passwords = folder / "htpasswd"
    passwords.write_text(_KNOWN)
    return f"auth: {{htpasswd: {{realm: test, path: {passwords}}}}}"
