"""Every error that Jiffy raises across a room's wall, as one tree.

    JiffyError
    ├── CallerError             the caller can mend it                             4xx
    │   ├── InvalidRequest      400  a malformed request, header, event or name
    │   ├── SpecError           400  a mistake in jiffy.toml or in a deploy request
    │   ├── Unauthorized        401  no API key, or a wrong one
    │   ├── BudgetExceeded      402  a hard budget is used up; `retry_after_s` is when it starts anew
    │   ├── Forbidden           403  a web page of another site
    │   ├── NotFound            404  no such function, revision, invocation, build or route
    │   ├── MethodNotAllowed    405  the route exists, not with this method
    │   ├── Conflict            409  what is asked for contradicts what is there
    │   ├── KeyReused           422  an Idempotency-Key came again with another request
    │   ├── PayloadTooLarge     413  larger than limits.PAYLOAD_MAX_BYTES or SOURCE_MAX_BYTES
    │   ├── NotOffered          501  a protocol that is not spoken here, such as WebSocket
    │   └── Throttled           429  a limit is reached; `retry_after_s` says when to try again
    ├── FunctionError                 the function's author can mend it
    │   └── BuildFailed         422  dependencies, syntax or handler: the revision in service stays
    └── PlatformError                 we failed; the same call may work elsewhere or later
        ├── Unavailable         503  no invoker, no builder or no queue answers
        ├── SandboxFailed       502  a microcontainer could not be made or was lost
        └── DeadlineExceeded    504  nothing came back before the call's deadline

How a *function* ends (it raises, times out, runs out of memory) is an Outcome in a message, never an exception.
"""

from __future__ import annotations

from typing import ClassVar


class JiffyError(Exception):
    """Base of the tree. `code` is stable and machine-readable; the message is one line that says what to do."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, object]:
        """The body of an HTTP error: ``{"error": {"code", "message"[, "retry_after_s"]}}``."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.retry_after_s is not None:
            error["retry_after_s"] = self.retry_after_s
        return {"error": error}


class CallerError(JiffyError):
    code, status = "bad_request", 400


class InvalidRequest(CallerError):
    code, status = "invalid_request", 400


class SpecError(CallerError):
    code, status = "invalid_spec", 400


class Unauthorized(CallerError):
    code, status = "unauthorized", 401


class BudgetExceeded(CallerError):
    code, status = "budget_exceeded", 402


class Forbidden(CallerError):
    code, status = "forbidden", 403


class NotFound(CallerError):
    code, status = "not_found", 404


class MethodNotAllowed(CallerError):
    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allow: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allow = allow


class Conflict(CallerError):
    code, status = "conflict", 409


class KeyReused(CallerError):
    code, status = "idempotency_key_reused", 422


class PayloadTooLarge(CallerError):
    code, status = "payload_too_large", 413


class NotOffered(CallerError):
    code, status = "not_offered", 501


class Throttled(CallerError):
    code, status = "throttled", 429


class FunctionError(JiffyError):
    code, status = "function_error", 502


class BuildFailed(FunctionError):
    code, status = "build_failed", 422


class PlatformError(JiffyError):
    code, status = "platform_error", 502


class Unavailable(PlatformError):
    code, status = "unavailable", 503


class SandboxFailed(PlatformError):
    code, status = "sandbox_failed", 502


class DeadlineExceeded(PlatformError):
    code, status = "deadline_exceeded", 504
