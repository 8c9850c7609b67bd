"""Why a call was not run, and what its caller is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from jiffy.contract.messages import Outcome


@dataclass(frozen=True, slots=True)
class Refusal:
    outcome: Outcome
    error: bytes  # {"errorType", "errorMessage"[, "stackTrace"]}
    retry_after_s: float = 0.0
    init_us: int = 0  # how long the call waited for an import that failed
    log: bytes = b""  # what that import printed, and what became of it
    used_us: int = 0  # how long the function's start held the host, for one of the calls to pay; 0: a moment

    @property
    def message(self) -> str:
        return str(json.loads(self.error)["errorMessage"])

    def after(self, init_us: int, *, first: bool) -> Refusal:
        """The same for one of several calls, each of which waited for its own `init_us`."""
        return replace(self, init_us=init_us) if first else replace(self, init_us=init_us, log=b"", used_us=0)


def error_json(kind: str, message: str) -> bytes:
    """An error as every outcome but OK carries it."""
    return json.dumps({"errorType": kind, "errorMessage": message}, ensure_ascii=False).encode()


def log_line(error: bytes) -> bytes:
    """An error JSON of ours as the line that stands for it in the attempt's log."""
    document = json.loads(error)
    return f"[ERROR] {document['errorType']}: {document['errorMessage']}".encode()


def ending_in(error: bytes, printed: bytes = b"") -> bytes:
    """What was printed until a function could not be started, and why: nobody inside can log an error JSON of ours."""
    broken = printed and not printed.endswith(b"\n")
    return b"%b%b%b\n" % (printed, b"\n" if broken else b"", log_line(error))


def platform(message: str) -> Refusal:
    """We failed the call."""
    return Refusal(Outcome.PLATFORM, error_json("Jiffy.PlatformError", message))


def throttled(function: str, why: str, retry_after_s: float) -> Refusal:
    """A limit held until the latest moment that the call could have begun."""
    return Refusal(Outcome.THROTTLED, error_json("Jiffy.Throttled", f"{function} was not run: {why}"), retry_after_s)


def function_limit(max_instances: int) -> str:
    return f"max_instances = {max_instances} and no instance was free in time"
