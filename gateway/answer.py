"""An Answer, or why there is none, as an HTTP response: (status, headers, body). Pure.

How a function's result becomes a response is the contract's (jiffy.contract.httpevent); here are the Jiffy-* headers
around it, and what a failure looks like. Who writes the response: protocol.py and asgi.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from gateway.asgi import JSON, Header, Response, error_response
from gateway.catalog import Function
from jiffy.contract import httpevent
from jiffy.contract.errors import JiffyError, PlatformError, Throttled
from jiffy.contract.messages import Answer, Outcome, Piece

Complain = Callable[[Function, str, int, str], None]  # complaints.Complaints


def _headers(answer: Answer, function: Function) -> list[Header]:
    headers = [
        (b"jiffy-invocation-id", answer.invocation.encode()),
        (b"jiffy-duration-ms", b"%d.%03d" % divmod(answer.duration_us, 1000)),
        (b"jiffy-billed-ms", b"%d" % answer.billed_ms),
        (b"jiffy-cold", b"true" if answer.cold else b"false"),
        (b"jiffy-outcome", answer.outcome.encode("latin-1", "replace")),
        (b"jiffy-revision", function.number),
    ]
    if answer.cold:
        headers.append((b"jiffy-init-ms", b"%d.%03d" % divmod(answer.init_us, 1000)))
    return headers


def http_answer(answer: Answer | JiffyError, invocation: str, function: Function, complain: Complain) -> Response:
    """What a browser sees: the function's response, or its failure as 502, 504 … A result that is no response is
    complained of.
    """
    if isinstance(answer, JiffyError):
        return refusal(answer, invocation, function)
    headers = _headers(answer, function)
    if answer.outcome != "ok":
        return _failure(answer, headers, None)
    try:
        status, own, body = httpevent.response(answer.payload)
    except (ValueError, RecursionError) as exc:
        headers = [(name, b"error" if name == b"jiffy-outcome" else value) for name, value in headers]
        headers.append(JSON)
        return 502, headers, _bad_response(exc, function, answer.invocation, answer.attempt, complain)
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own]
    return status, headers, body


def streamed(piece: Piece, function: Function, complain: Complain) -> tuple[bool, Response]:
    """The head of a response that comes piece by piece, its body empty; (False, a whole 502) when it is none."""
    known = [(b"jiffy-invocation-id", piece.invocation.encode()), (b"jiffy-revision", function.number)]
    try:
        status, own, _ = httpevent.response(piece.head)
    except (ValueError, RecursionError) as exc:
        error = _bad_response(exc, function, piece.invocation, piece.attempt, complain)
        return False, (502, [*known, (b"jiffy-outcome", b"error"), JSON], error)
    return True, (status, known + [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own], b"")


def _bad_response(exc: Exception, function: Function, invocation: str, attempt: int, complain: Complain) -> bytes:
    kind, text = "Jiffy.BadResponse", f"the function's result is no HTTP response: {exc}"
    complain(function, invocation, attempt, f"{kind}: {text}")
    return json.dumps({"errorType": kind, "errorMessage": text}).encode()


def ending(answer: Answer) -> dict[str, object]:
    """How a streamed answer ended, as its last line says."""
    told: dict[str, object] = {
        "outcome": answer.outcome,
        "duration_ms": answer.duration_us / 1000,
        "billed_ms": answer.billed_ms,
        "cold": answer.cold,
        "init_ms": answer.init_us / 1000,
    }
    if answer.outcome != "ok":
        told["error"] = json.loads(error_json(answer))
    return told


def error_json(answer: Answer) -> bytes:
    """The error of a failed call, as one line of JSON."""
    try:
        return json.dumps(json.loads(answer.payload)).encode()
    except (ValueError, RecursionError):
        return json.dumps({"errorType": answer.outcome, "errorMessage": f"the call ended as {answer.outcome}"}).encode()


def raw_answer(answer: Answer, function: Function) -> Response:
    """What `jiffy invoke` sees: the result, or as with Lambda a 200 with the error and a header that says so."""
    headers = _headers(answer, function)
    if answer.outcome != "ok":
        headers.append((b"jiffy-function-error", b"Unhandled"))
        return _failure(answer, headers, 200)
    headers.append(JSON)
    return 200, headers, answer.payload


def _failure(answer: Answer, headers: list[Header], status: int | None) -> Response:
    try:
        outcome = Outcome(answer.outcome)
    except ValueError:  # an outcome of a newer release
        outcome = Outcome.PLATFORM
    if outcome in (Outcome.THROTTLED, Outcome.PLATFORM):
        headers = [h for h in headers if h[0] != b"jiffy-function-error"]  # it is none
        error = _platform_error(outcome, answer)
        status, more, body = error_response(error)
        return status, [*headers, *more], body
    headers.append(JSON)
    return status or outcome.status, headers, answer.payload


def _platform_error(outcome: Outcome, answer: Answer) -> JiffyError:
    try:
        message = str(json.loads(answer.payload)["errorMessage"])
    except (ValueError, TypeError, KeyError, RecursionError):
        message = f"the call ended as {outcome}"
    if outcome is Outcome.THROTTLED:
        return Throttled(message, retry_after_s=max(1, math.ceil(answer.retry_after_s)))
    return PlatformError(message)


def refusal(error: JiffyError, invocation: str, function: Function) -> Response:
    """A call that has an id but got no answer."""
    known = [(b"jiffy-invocation-id", invocation.encode()), (b"jiffy-revision", function.number)]
    status, more, body = error_response(error)
    return status, [*known, *more], body
