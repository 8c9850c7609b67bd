"""Runs inside a sandbox, in a full base layer: a handler, with its author's events. Which modules did it load?

The job comes as JSON on stdin, the answer goes as JSON to stdout, which the function's own words don't reach. See
rehearsal.py, which sends this file's text to the interpreter.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from builder.runtimes.python.jiffy_function import Context, Function, LoadError, load_handler, prepare, run
else:
    sys.path.insert(0, "/var/runtime")
    from jiffy_function import Context, Function, LoadError, load_handler, prepare, run

# Data that an image has for those alone who can load the module: a function that opens it by itself needs it, too.
DATA = {"/usr/share/zoneinfo": "zoneinfo", "/etc/ssl": "ssl"}


def main() -> None:
    job = json.load(sys.stdin)
    for name, most in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    out = os.dup(1)
    opened: set[str] = set()
    os.dup2(2, 1)
    for name in ("resource", "signal"):  # ours: the function's own import shows again
        del sys.modules[name]
    before = set(sys.modules)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, round(job["wait_s"])))

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened.update(module for folder, module in DATA.items() if arguments[0].startswith(folder))

    sys.addaudithook(watch)
    trouble = attempt(job)
    names = sorted({*(set(sys.modules) - before), *opened})
    os.write(out, b"\n" + json.dumps({"names": names, "trouble": trouble}).encode() + b"\n")


def attempt(job: dict[str, object]) -> str:
    """What went wrong, if something did."""
    try:
        function = Function(name=str(job["name"]), memory_mb=job["memory_mb"])  # type: ignore[arg-type]
        prepare(str(job["handler"]), function, job["env"])  # type: ignore[arg-type]
        handler = load_handler(str(job["handler"]), function)
        for event in job["events"]:  # type: ignore[attr-defined]
            ok, answer, _ = run(handler, event.encode(), Context(function, "rehearsal", job["timeout_ms"]))  # type: ignore[arg-type]
            if not ok:
                error = json.loads(answer)
                return f"{error['errorType']}: {error['errorMessage']}"
    except LoadError as exc:
        return str(exc)
    except BaseException as exc:
        return f"{type(exc).__name__}: {exc}"
    return ""


def late(_signal: int, _frame: object) -> None:
    raise TimeoutError("the handler still ran when its time was up")


main()
