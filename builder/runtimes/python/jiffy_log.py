"""What Jiffy itself writes into a function's log: its errors with their tracebacks, and hints on how to mend them.

It also gives `logging` the format that it has on AWS Lambda. Everything here runs after something failed or once at
the load, so it imports what it needs only then. It lies in the image as /var/runtime/jiffy_log.py. What an error's
caller sees is jiffy_function.py's business.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from traceback import TracebackException
    from typing import Any

    from builder.runtimes.python.jiffy_function import Function

RUNTIME = os.path.dirname(os.path.abspath(__file__))
TRACE_MAX_CHARS = 64 * 1024  # of one error
CHAIN_MAX = 100  # exceptions that led to one
NETWORK_UNREACHABLE = 101  # errno.ENETUNREACH


def is_ours(filename: str) -> bool:
    """Is it a frame that leads to the user's code, rather than one of that?"""
    return filename.startswith(RUNTIME + "/") or "/asyncio/" in filename


def write_error(error: dict[str, Any], exc: BaseException | None = None) -> None:
    """``[ERROR] KeyError: 'x'`` and the traceback, with everything that caused it, as AWS Lambda logs them."""
    text = f"[ERROR] {error['errorType']}: {error['errorMessage']}\n"
    try:
        if exc is None or isinstance(exc, SyntaxError):
            text += "".join(f"{line}\n" for line in error["stackTrace"])
        else:
            text += _trace(exc)[:TRACE_MAX_CHARS]
            text += "".join(f"[HINT] {hint}\n" for hint in _hints(exc))
    except Exception:  # an exception that can't even be shown: its head must do
        pass
    write(text)


def write(text: str) -> None:
    """To the log, after all that was printed before; whatever the user made of sys.stderr."""
    try:
        for stream in (sys.stdout, sys.stderr, sys.__stderr__):
            if stream is not None:
                stream.flush()
    except Exception:
        pass
    try:
        assert sys.__stderr__ is not None
        sys.__stderr__.write(text if text.endswith("\n") else text + "\n")
        sys.__stderr__.flush()
    except Exception:  # closed by the user: theirs to lose
        pass


def _trace(exc: BaseException) -> str:
    import traceback

    shown = traceback.TracebackException.from_exception(exc)
    _prune(shown)
    text = "".join(shown.format())
    if getattr(exc, "__notes__", None):
        return text
    return text.removesuffix("".join(shown.format_exception_only()))  # the head has said it


def _prune(shown: TracebackException) -> None:
    """Take out our frames, of all exceptions in the chain."""
    todo: list[Any] = [shown]
    while todo:
        one = todo.pop()
        if one.stack is not None:
            while one.stack and is_ours(one.stack[0].filename):
                del one.stack[0]
            one.stack = one.stack or None
        todo += [more for more in (one.__cause__, one.__context__, *(one.exceptions or ())) if more is not None]


def _hints(exc: BaseException) -> Iterator[str]:
    for one in _chain(exc):
        if isinstance(one, ModuleNotFoundError) and one.name:
            if str(one) == f"No module named {one.name!r}":  # a longer message has a remedy of its own: a slim image's
                yield (
                    f"no module {one.name.partition('.')[0]!r}: it is neither in your folder nor among its "
                    "dependencies; add the package that has it to requirements.txt beside jiffy.toml, and deploy again"
                )
            return
        if isinstance(one, OSError) and (one.errno == NETWORK_UNREACHABLE or type(one).__name__ == "gaierror"):
            if not _has_network():
                yield "this function has no network; network = true in jiffy.toml gives it one"
            return


def _chain(exc: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = exc
    for _ in range(CHAIN_MAX):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _has_network() -> bool:
    """Does any route lead out of here? When that can't be told: yes."""
    try:
        with open("/proc/net/route", "rb") as file:
            return file.read().count(b"\n") > 1
    except OSError:
        return True


def join_logging(function: Function) -> None:
    """Where the function uses `logging` and set up nothing, its lines go to the log, in AWS Lambda's format."""
    logging: Any = sys.modules.get("logging")

    def stamp(record: Any) -> bool:
        record.aws_request_id = function.invocation
        return True

    try:
        if logging is None or logging.root.handlers:
            return
        form = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
        formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        handler.addFilter(stamp)
        logging.root.addHandler(handler)
    except AttributeError:  # a logging.py of the user's own
        pass
