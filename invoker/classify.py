"""How an attempt ended: from what its instance did to an Outcome, a payload and a duration. Pure.

A reply is the function's own word, and its duration the agent's stamps around the handler, held against what the
invoker measured around the whole exchange: never longer, and not shorter by more than UNEXPLAINED_US, because the
function's code shares a process with the stamps. An instance that ended instead of replying is billed for what the
invoker measured. A function's failure is an outcome here, never an exception.
"""

from __future__ import annotations

import json
import signal
from typing import NamedTuple

from jiffy.contract.messages import Outcome, Revision

from .refusal import error_json
from .sandbox import Exit, Reply

# What scheduling and the socket may take from an honest call on a crowded host: five times the p99 of a whole call with
# 64 callers on two cores. A function that forges its stamps hides no more than this, and where the kernel can be asked
# (witness.py) far less.
UNEXPLAINED_US = 250_000
_MEMORY_ERROR = b"MemoryError"
_ERROR_PARSED_MAX_BYTES = 128 * 1024  # twice the agent's longest message; more is none of its errors


class Ending(NamedTuple):
    outcome: Outcome
    payload: bytes  # the result, or the error JSON
    duration_us: int
    spent: bool  # the instance lives, but must not be used again


def classify(result: Reply | Exit, revision: Revision, measured_us: int) -> Ending:
    """`measured_us` is the invoker's own measure, from sending the call to having the answer."""
    if type(result) is Reply:
        duration_us = max(0, measured_us - UNEXPLAINED_US, min(result.duration_us, measured_us))
        if result.ok:
            return Ending(Outcome.OK, result.payload, duration_us, False)
        if _MEMORY_ERROR in result.payload and _error_type(result.payload) == "MemoryError":
            return Ending(Outcome.OUT_OF_MEMORY, _out_of_memory(revision), duration_us, True)
        return Ending(Outcome.ERROR, result.payload, duration_us, False)
    assert isinstance(result, Exit)
    return _ended(result, revision)


def unclassified(measured_us: int) -> Ending:
    """What an instance said made us fail: it is not to be trusted again, and its time is billed."""
    return Ending(
        Outcome.CRASH, error_json("Runtime.ExitError", "the instance's answer can't be read"), measured_us, True
    )


def _ended(end: Exit, revision: Revision) -> Ending:
    if end.reason == "timeout":
        text = f"Task timed out after {revision.timeout_ms / 1000:.2f} seconds; raise timeout_s in jiffy.toml"
        duration_us = min(end.duration_us, revision.timeout_ms * 1000)  # the kill is our time, not the function's
        return Ending(Outcome.TIMEOUT, error_json("Sandbox.Timedout", text), duration_us, True)
    if end.reason == "out_of_memory":
        return Ending(Outcome.OUT_OF_MEMORY, _out_of_memory(revision), end.duration_us, True)
    text = _EXITS.get(end.reason, "the instance closed its connection").format(status=end.code, name=_signal(end.code))
    return Ending(Outcome.CRASH, error_json("Runtime.ExitError", text), end.duration_us, True)


_EXITS = {
    "exit": "the instance exited with status {status}",
    "signal": "the instance was killed by signal {status}{name}",
}


def _signal(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def _out_of_memory(revision: Revision) -> bytes:
    text = f"the function used more than its memory_mb = {revision.memory_mb}; raise memory_mb in jiffy.toml"
    return error_json("Runtime.OutOfMemory", text)


def _error_type(payload: bytes) -> object:
    if len(payload) > _ERROR_PARSED_MAX_BYTES:
        return None
    try:
        error = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return error.get("errorType") if isinstance(error, dict) else None
