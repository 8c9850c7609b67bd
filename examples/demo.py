"""`make demo`: a platform of its own, both examples deployed and called cold and warm, the bill, and all gone again.

Shows what a newcomer would type: every step is a `jiffy` command or a plain HTTP request.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
JIFFY = str(Path(sys.executable).with_name("jiffy"))
READY = re.compile(r"jiffy is ready at (http://\S+)")
END_S = 30.0
PHOTO = HERE / "thumbnail" / "photo.jpg"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jiffy-demo-") as data:
        Path(data).chmod(0o755)  # sandboxes run as a user of their own
        with platform(Path(data)) as url:
            os.environ["JIFFY_URL"] = url
            for example in ("hello", "thumbnail"):
                jiffy("deploy", str(HERE / example))
            for temperature in ("cold", "warm"):
                call(f"GET /hello/Ada ({temperature})", f"{url}/hello/Ada")
            photo = PHOTO.read_bytes()
            for temperature in ("cold", "warm"):
                call(f"POST /thumbnail ({temperature}), {len(photo)} bytes of JPEG", f"{url}/thumbnail", photo)
            jiffy("invoke", "hello", '{"name": "Grace"}')
            jiffy("logs", "hello")
            jiffy("bill")
        check_nothing_left(data)
    say("All stopped, nothing left running.")


@contextlib.contextmanager
def platform(data: Path) -> Iterator[str]:
    """A running `jiffy up` on a free port; its URL."""
    say("$ jiffy up --port 0")
    process = subprocess.Popen([JIFFY, "up", "--port", "0", "--data", str(data)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        print(line, end="", flush=True)
        ready = READY.search(line)
        if not ready:
            sys.exit(f"the platform did not start (exit code {process.wait()})")
        yield ready[1]
    finally:
        process.send_signal(signal.SIGINT)  # Ctrl-C
        status = process.wait(END_S)
        if process.stdout:
            process.stdout.close()
    if status != 0:
        sys.exit(f"`jiffy up` ended with exit code {status}")


def jiffy(*words: str) -> None:
    say(f"$ jiffy {shlex.join(os.path.relpath(word) if word.startswith('/') else word for word in words)}")
    subprocess.run([JIFFY, *words], check=True)


def call(title: str, url: str, body: bytes | None = None) -> None:
    """One request; prints what a client sees of the answer."""
    headers = {"Content-Type": "image/jpeg"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        content = answer.read()
        say(title)
        print(f"  {answer.status} {answer.reason}")
        for name, value in answer.headers.items():
            if name.lower().startswith(("jiffy-", "content-type")):
                print(f"  {name.title()}: {value}")
    print(f"  {describe(content)}", flush=True)


def describe(content: bytes) -> str:
    return f"{len(content)} bytes of JPEG" if content.startswith(b"\xff\xd8") else content.decode()


def check_nothing_left(data: str) -> None:
    """No process and no mount may still know the demo's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and data.encode() in (process / "cmdline").read_bytes():
                sys.exit(f"process {process.name} was left running")
    if data in Path("/proc/self/mountinfo").read_text():
        sys.exit(f"a mount was left under {data}")


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
