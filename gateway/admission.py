"""May this request come in? Key, sizes, names, and how much one gateway holds at a time. No I/O.

Everything a client sends is hostile: it is bounded before it is decoded. What to do with an admitted request is the
business of routes/.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from gateway.hosts import GUARDED, Hosts
from gateway.keyring import OWNER, Caller, Keyring
from jiffy.contract import limits
from jiffy.contract.errors import (
    InvalidRequest,
    NotFound,
    NotOffered,
    PayloadTooLarge,
    SpecError,
    Unauthorized,
    Unavailable,
)
from jiffy.contract.spec import check_name

CALLS_MAX = 10_000  # in flight; about 20 KB of memory each, connection and buffers included
HELD_MAX_BYTES = 256 * limits.MIB  # of bodies in flight; each exists about three times: read, packed, sent
PATH_MAX_BYTES = 8 * 1024
HEADERS_MAX = 200  # pairs; each costs more memory than its bytes
_KEYS = (b"authorization", b"x-api-key")
_LOOKED_AT = GUARDED | {b"content-length", b"transfer-encoding", b"idempotency-key", b"upgrade", *_KEYS}


class Head(NamedTuple):
    """A request's headers, bounded and decoded; the API key is not among them."""

    pairs: list[tuple[str, str]]
    length: int | None  # content-length, when stated
    body: bool  # may a body follow?
    once: str = ""  # Idempotency-Key, of a caller who is known
    caller: Caller | None = OWNER  # None: who has no key that is known here


def read_head(raw: Collection[tuple[bytes, bytes]], keys: Keyring | None, hosts: Hosts | None = None) -> Head:
    """Check the size of the headers and find the caller by its API key; without keys, see that it is no page's request.

    The key's own header is left out: a function must not learn what opens the platform.
    Raises InvalidRequest, Forbidden, NotOffered.
    """
    pairs: list[tuple[str, str]] = []
    length: int | None = None
    once = ""
    caller = OWNER if keys is None else None
    size, body = 0, False
    for name, value in raw:
        size += len(name) + len(value) + 4
        if name not in _LOOKED_AT:
            pass
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 15:
                raise InvalidRequest("content-length must be a number")
            length = int(value)
            body = length > 0
        elif name == b"transfer-encoding":
            body = True
        elif name == b"idempotency-key":
            once = _once(value)
        elif keys is not None and name in _KEYS and (found := _found(name, value, keys)) is not None:
            caller = caller or found
            continue
        elif name == b"upgrade":
            _stay(value)
        elif hosts is not None and name in GUARDED:
            hosts.check(name, value)
        pairs.append((name.decode("latin-1"), value.decode("latin-1")))
    if size > limits.HEADERS_MAX_BYTES or len(pairs) > HEADERS_MAX:
        raise InvalidRequest(f"more than {limits.HEADERS_MAX_BYTES} bytes or {HEADERS_MAX} lines of headers")
    return Head(pairs, length, body, once if caller is not None else "", caller)  # strangers have nothing kept


def known(raw: Collection[tuple[bytes, bytes]], keys: Keyring | None) -> Caller | None:
    """The caller alone, for who has to know it before the rest of the head is looked at."""
    if keys is None:
        return OWNER
    found = (_found(name, value, keys) for name, value in raw if name in _KEYS)
    return next(filter(None, found), None)


def acting(caller: Caller | None, tenant: str, raw: Collection[tuple[bytes, bytes]]) -> Caller:
    """The caller, acting for `tenant`: its own, or any if it is an admin. To all others there is no such tenant.

    Raises Unauthorized, NotFound.
    """
    if caller is None:
        raise _unknown(raw)
    if caller.tenant == tenant:
        return caller
    if not caller.admin:
        raise NotFound("there is no such tenant, or this key is none of its keys")
    return caller._replace(tenant=tenant)


def _unknown(raw: Collection[tuple[bytes, bytes]]) -> Unauthorized:
    """That these headers hold no key, or none that is known."""
    if any(name in _KEYS for name, _ in raw):
        return Unauthorized("wrong API key: this platform has no such key (JIFFY_API_KEY)")
    return Unauthorized(
        "this platform needs an API key: set JIFFY_API_KEY, or send Authorization: Bearer KEY or X-Api-Key: KEY"
    )


def _stay(value: bytes) -> None:
    """Other protocols that a client offers to change to (h2c) may be passed over; one that it needs is refused."""
    if b"websocket" in value.lower():
        raise NotOffered("WebSockets are not offered here: a function answers one request at a time; poll instead")


def _once(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    if not 0 < len(text) <= limits.ONCE_KEY_MAX_CHARS:
        raise InvalidRequest(f"Idempotency-Key has from 1 to {limits.ONCE_KEY_MAX_CHARS} characters")
    return text


def _found(name: bytes, value: bytes, keys: Keyring) -> Caller | None:
    if name == b"authorization":
        scheme, _, value = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
    return keys.find(value.strip())


def known_name(name: str) -> str:
    """`name` if a function may have it; what can't exist is not looked for. Raises NotFound."""
    try:
        return check_name(name)
    except SpecError as exc:
        raise NotFound(f"there is no function {name[:80]!r}") from exc


def check_size(size: int, most: int = limits.PAYLOAD_MAX_BYTES, what: str = "the request's body") -> None:
    """Raises PayloadTooLarge."""
    if size > most:
        raise PayloadTooLarge(f"{what} has more than {most} bytes")


class Admission:
    """Counts what this gateway holds, so that no crowd of callers can fill its memory."""

    __slots__ = ("calls", "calls_max", "held", "held_max")

    def __init__(self, calls_max: int = CALLS_MAX, held_max: int = HELD_MAX_BYTES) -> None:
        self.calls = 0
        self.held = 0
        self.calls_max = calls_max
        self.held_max = held_max

    def enter(self, held: int = 0) -> None:
        """One more call, which holds `held` bytes already; pair with `leave`. Raises Unavailable, and lets them go."""
        if self.calls >= self.calls_max:
            self.held -= held
            raise Unavailable(f"this gateway has {self.calls_max} calls in flight", retry_after_s=1.0)
        self.calls += 1

    def leave(self, held: int) -> None:
        """A call is over; it held `held` bytes."""
        self.calls -= 1
        self.held -= held

    def hold(self, size: int) -> None:
        """Take `size` bytes more of somebody's body into memory. Raises Unavailable."""
        if self.held + size > self.held_max:
            raise Unavailable("this gateway's memory for requests is full", retry_after_s=1.0)
        self.held += size
