"""One function inside a microcontainer: its environment, its handler, its context, one event through it.

The agent forks instances that call `run`; serve.py, beside it, calls the same over HTTP: a function cannot tell which.
Standard library only, and little of it: this is part of every start. It lies in the image as /var/runtime, under a
name that no module of a user's is likely to have. Errors are in AWS Lambda's words (its Python runtime client).
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from builder.runtimes.python.jiffy_log import is_ours, join_logging, write_error
else:
    from jiffy_log import is_ours, join_logging, write_error

TASK, DEPS, RUNTIME = "/var/task", "/opt/python", os.path.dirname(os.path.abspath(__file__))
OURS = (
    "jiffy_frames",
    "jiffy_function",
    "jiffy_log",
    "jiffy_process",
    "jiffy_stream",
    "httpevent",
)  # what is imported from RUNTIME
monotonic_ns = time.monotonic_ns  # bound before the function is there, which may replace it where it stands
RESULT_MAX = 6 * 1024 * 1024  # AWS Lambda's bound; limits.PAYLOAD_MAX_BYTES
MESSAGE_MAX_CHARS = 64 * 1024  # of an error: enough for people, and small beside a result


class LoadError(Exception):
    """The function could not be loaded; `error` is what its caller is told. Its log has been told already."""

    def __init__(
        self, kind: str, message: str, trace: list[str] | None = None, cause: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.error = {"errorType": kind, "errorMessage": message[:MESSAGE_MAX_CHARS], "stackTrace": trace or []}
        write_error(self.error, cause)


class Function:
    """What stays the same from call to call."""

    __slots__ = ("arn", "invocation", "log_group", "log_stream", "memory_mb", "name", "revision", "tenant")

    def __init__(self, *, name: str, tenant: str = "local", revision: int = 1, memory_mb: int = 128) -> None:
        self.name, self.tenant, self.revision, self.memory_mb = name, tenant, str(revision), str(memory_mb)
        self.arn = f"urn:jiffy:{tenant}:function:{name}:{revision}"
        self.log_group = f"/jiffy/{name}"
        self.log_stream = f"[{revision}]0"
        self.invocation = ""  # the one that runs


class Identity:
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id = self.cognito_identity_pool_id = None


class Context:
    """The handler's second argument, as AWS Lambda has it."""

    def __init__(self, function: Function, invocation: str, timeout_ms: int) -> None:
        self.aws_request_id = function.invocation = invocation
        self.log_group_name = function.log_group
        self.log_stream_name = function.log_stream
        self.function_name = function.name
        self.memory_limit_in_mb = function.memory_mb
        self.function_version = function.revision
        self.invoked_function_arn = function.arn
        self.tenant_id = function.tenant
        self.client_context = None
        self.identity = Identity()
        self._deadline = time.monotonic() + timeout_ms / 1000

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def log(self, message: object) -> None:
        sys.stdout.write(str(message))


def prepare(handler: str, function: Function, env: dict[str, str]) -> None:
    """Give this process the function's environment and its sys.path."""
    base = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/python/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
    }
    fixed = {
        "_HANDLER": handler.replace(":", "."),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": function.memory_mb,
        "AWS_LAMBDA_FUNCTION_VERSION": function.revision,
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": function.log_stream,
        "LAMBDA_TASK_ROOT": TASK,
        "LAMBDA_RUNTIME_DIR": RUNTIME,
        "JIFFY_FUNCTION": function.name,
        "JIFFY_REVISION": function.revision,
    }
    for name in OURS:  # a file of the user's may have the same name, and is what they mean then
        sys.modules.pop(name, None)
    os.environ.clear()
    os.environ.update(base | env | fixed)
    time.tzset()
    sys.argv = [handler]
    sys.path[:] = [TASK, DEPS, *(p for p in sys.path if p not in (TASK, DEPS, RUNTIME))]
    os.chdir(TASK)


def load_handler(handler: str, function: Function) -> Callable[[Any, Any], Any]:
    """The callable that "module:attribute" names, and `logging` ready for it. Raises LoadError, in Lambda's words."""
    name, _, attribute = handler.partition(":")
    try:
        __import__(name)  # unlike importlib's, this leaves no import machinery in the trace
        module = sys.modules[name]
    except SyntaxError as exc:
        place = f'  File "{exc.filename}" Line {exc.lineno}\n    {exc.text or ""}'
        raise LoadError(
            "Runtime.UserCodeSyntaxError", f"Syntax error in module '{name}': {exc}", [place], exc
        ) from None
    except ImportError as exc:
        message = f"Unable to import module '{name}': {exc}"
        raise LoadError("Runtime.ImportModuleError", message, stack(exc.__traceback__), exc) from None
    except SystemExit as exc:
        message = f"the module exited with status {exc.code} while it was imported"
        raise LoadError("Runtime.ExitError", message, stack(exc.__traceback__), exc) from None
    except BaseException as exc:
        error = describe(exc)
        raise LoadError(error["errorType"], error["errorMessage"], error["stackTrace"], exc) from None
    found = getattr(module, attribute, None)
    if found is None:
        raise LoadError("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{name}'")
    if not callable(found):
        raise LoadError("Runtime.HandlerNotFound", f"Handler '{attribute}' of module '{name}' can't be called")
    join_logging(function)
    return found  # type: ignore[no-any-return]


def stack(tb: TracebackType | None) -> list[str]:
    """The frames of a traceback as text, without those of ours that lead to the user's."""
    import traceback

    frames = traceback.extract_tb(tb)
    while frames and is_ours(frames[0].filename):
        del frames[0]
    return traceback.format_list(frames)


def describe(exc: BaseException) -> dict[str, Any]:
    """The error JSON of an exception."""
    try:
        message = str(exc)
    except Exception as inner:
        message = f"(its text could not be made: {type(inner).__name__})"
    trace = stack(exc.__traceback__)
    return {"errorType": type(exc).__name__, "errorMessage": message[:MESSAGE_MAX_CHARS], "stackTrace": trace}


_loops: list[Any] = []  # the one event loop of this process, once an async handler ran


def finish(awaitable: Any) -> Any:
    """Wait for it, on the one event loop."""
    import asyncio

    if not _loops:
        _loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(_loops[0])

    async def wait() -> Any:
        return await awaitable

    return _loops[0].run_until_complete(wait())


def _plain(value: object) -> object:
    if type(value).__name__ == "Decimal":  # as Lambda does, and without importing decimal
        return float(value)  # type: ignore[arg-type]
    if hasattr(value, "__next__") or hasattr(value, "__aiter__"):
        raise TypeError(f"a {type(value).__name__} can't be a result; to stream what it yields, set stream = true")
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def run(handler: Callable[[Any, Any], Any], event: bytes, context: Context) -> tuple[bool, bytes, int]:
    """(ok, result or error JSON, microseconds spent in the handler). SystemExit passes: it ends the instance."""
    value, error = unmarshal(event)
    if error:
        return False, error, 0
    began = monotonic_ns()
    try:
        result = handler(value, context)
        if hasattr(result, "__await__"):
            result = finish(result)
    except SystemExit:
        raise
    except BaseException as exc:
        spent = (monotonic_ns() - began) // 1000
        return False, failed(exc), spent
    spent = (monotonic_ns() - began) // 1000
    return *marshal(result), spent


def unmarshal(event: bytes) -> tuple[Any, bytes]:
    """(the event, b""), or (None, why it can't be read, as error JSON)"""
    try:
        return json.loads(event), b""
    except (ValueError, RecursionError) as exc:
        return None, logged_failure("Runtime.UnmarshalError", f"Unable to unmarshal input: {exc}")


def marshal(result: Any) -> tuple[bool, bytes]:
    """(True, the result as JSON), or (False, why there is none, as error JSON). SystemExit passes."""
    try:
        text = encode(result)
        try:
            payload = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: only an escape can carry it
            payload = json.dumps(result, allow_nan=False, default=_plain).encode()
    except SystemExit:
        raise
    except BaseException as exc:
        return False, logged_failure("Runtime.MarshalError", f"Unable to marshal response: {exc}")
    if len(payload) > RESULT_MAX:
        message = f"the result has {len(payload)} bytes; at most {RESULT_MAX} are allowed"
        return False, logged_failure("Function.ResponseSizeTooLarge", message)
    return True, payload


def failed(exc: BaseException) -> bytes:
    """The error JSON of what a handler raised, and its log is told."""
    error = describe(exc)
    write_error(error, exc)
    return json.dumps(error).encode()


def failure(kind: str, message: str) -> bytes:
    """The error JSON of what is no exception of the function's."""
    return json.dumps({"errorType": kind, "errorMessage": message[:MESSAGE_MAX_CHARS], "stackTrace": []}).encode()


def logged_failure(kind: str, message: str) -> bytes:
    """The same, and its log is told, too."""
    error = failure(kind, message)
    write_error(json.loads(error))
    return error


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # replaced or closed by the user: theirs to lose
            pass


def exit_status(code: object) -> int:
    """What the interpreter would exit with after SystemExit(code)."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
