"""Messages ⇄ bytes. The only place that knows msgpack."""

from __future__ import annotations

from typing import Any, TypeVar

import msgpack

from .errors import PlatformError
from .messages import (
    Answer,
    BuilderBeat,
    BuildEvent,
    BuildRequest,
    Call,
    DeadLetter,
    Delivery,
    FunctionStatus,
    Heartbeat,
    InvocationRecord,
    Layer,
    LogEntry,
    Piece,
    Process,
    Provision,
    Receipt,
    Revision,
    Terms,
    Usage,
)

__all__ = ["pack", "unpack"]

Message = (
    Call
    | Answer
    | Piece
    | Receipt
    | Usage
    | Provision
    | LogEntry
    | Revision
    | Heartbeat
    | BuilderBeat
    | BuildRequest
    | BuildEvent
    | InvocationRecord
    | DeadLetter
    | Delivery
    | Layer
)

M = TypeVar("M")
_PROCESS = Revision._fields.index("process")


def pack(message: Message) -> bytes:
    """The bytes of `message`; safe to call from any thread."""
    return msgpack.packb(message)  # type: ignore[no-any-return]


def unpack(kind: type[M], data: bytes) -> M:
    """The message of type `kind` in `data`; fields that a newer release added are ignored.

    Raises PlatformError when `data` is no such message.
    """
    try:
        values = msgpack.unpackb(data, use_list=False, strict_map_key=False)
        rebuild = _NESTED.get(kind)
        if rebuild is not None:
            values = rebuild(values)
        try:
            return kind(*values)
        except TypeError:
            return kind(*values[: len(kind._fields)])  # type: ignore[attr-defined]
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as exc:
        raise PlatformError(f"not a {kind.__name__} message: {exc}") from exc


def _call(v: tuple[Any, ...]) -> tuple[Any, ...]:
    terms = v[9] if len(v) > 9 else None
    return v if terms is None else (*v[:9], Terms(*terms[: len(Terms._fields)]), *v[10:])


def _delivery(v: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*v[:13], Terms(*v[13][: len(Terms._fields)]), *v[14:])


def _revision(v: tuple[Any, ...]) -> tuple[Any, ...]:
    layers = tuple(Layer(*layer) for layer in v[5])
    process = v[_PROCESS] if len(v) > _PROCESS else None
    if process is None:
        return (*v[:5], layers, *v[6:])
    made = Process(*process[: len(Process._fields)])
    return (*v[:5], layers, *v[6:_PROCESS], made, *v[_PROCESS + 1 :])


def _heartbeat(v: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*v[:11], tuple(FunctionStatus(*f) for f in v[11]), *v[12:])


def _invocation(v: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*v[:7], Answer(*v[7]) if v[7] is not None else None, *v[8:])


_NESTED = {Call: _call, Delivery: _delivery, Revision: _revision, Heartbeat: _heartbeat, InvocationRecord: _invocation}
