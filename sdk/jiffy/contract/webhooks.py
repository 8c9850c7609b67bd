"""Is a webhook's delivery genuine, and fresh? GitHub's scheme, Stripe's, Slack's, Standard Webhooks, and a plain HMAC.

Pure: headers and body in, an id of the delivery out, or ValueError. What is signed is the raw body, never a parsed
one. Sources: docs.github.com (validating webhook deliveries), docs.stripe.com/webhooks/signature, api.slack.com
(verifying requests from Slack), github.com/standard-webhooks/standard-webhooks.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import NamedTuple

FRESH_S = 300  # how far a signed time may be from now: what all of these recommend


class Delivery(NamedTuple):
    """One delivery as it came. Names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes
    now_s: int


def verify(scheme: str, secret: str, delivery: Delivery, header: str = "x-signature") -> str:
    """An id that a repeated delivery has again. Raises ValueError: it is not genuine, or too old."""
    if scheme == "hmac":
        return _plain(secret, delivery, header)
    return _SCHEMES[scheme](secret, delivery)


def hopeless(scheme: str, headers: Mapping[str, str], now_s: int, header: str = "x-signature") -> None:
    """Raises ValueError where no body could make this delivery genuine and fresh: nobody need wait for it."""
    delivery = Delivery(headers, b"", now_s)
    wanted, stamp = _SAID.get(scheme, ((header,), None))
    for name in wanted:
        _header(delivery, name)
    if stamp is not None:
        _fresh(stamp(delivery), now_s)


def _github(secret: str, delivery: Delivery) -> str:
    return _plain(secret, delivery, "x-hub-signature-256")


def _plain(secret: str, delivery: Delivery, header: str) -> str:
    """HMAC-SHA256 of the body, as hex or base64, with or without "sha256=" before it."""
    given = _header(delivery, header).removeprefix("sha256=")
    digest = _mac(secret.encode(), delivery.body)
    _same(header, [given], digest.hex(), base64.b64encode(digest).decode())
    return digest.hex()


def _stripe_pairs(delivery: Delivery) -> list[tuple[str, str, str]]:
    return [part.strip().partition("=") for part in _header(delivery, "stripe-signature").split(",")]


def _stripe_time(delivery: Delivery) -> str:
    return next((value for name, _, value in _stripe_pairs(delivery) if name == "t"), "")


def _stripe(secret: str, delivery: Delivery) -> str:
    pairs, stamp = _stripe_pairs(delivery), _stripe_time(delivery)
    _fresh(stamp, delivery.now_s)
    digest = _mac(secret.encode(), stamp.encode() + b"." + delivery.body)
    _same("stripe-signature", [value for name, _, value in pairs if name == "v1"], digest.hex())
    return digest.hex()


def _slack(secret: str, delivery: Delivery) -> str:
    stamp = _header(delivery, "x-slack-request-timestamp")
    _fresh(stamp, delivery.now_s)
    digest = _mac(secret.encode(), b"v0:" + stamp.encode() + b":" + delivery.body)
    _same("x-slack-signature", [_header(delivery, "x-slack-signature")], f"v0={digest.hex()}")
    return digest.hex()


def _standard(secret: str, delivery: Delivery) -> str:
    identity, stamp = _header(delivery, "webhook-id"), _header(delivery, "webhook-timestamp")
    _fresh(stamp, delivery.now_s)
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = secret.encode()
    digest = _mac(key, f"{identity}.{stamp}.".encode() + delivery.body)
    given = [part.partition(",")[2] for part in _header(delivery, "webhook-signature").split() if part[:3] == "v1,"]
    _same("webhook-signature", given, base64.b64encode(digest).decode())
    return sha256(identity.encode()).hexdigest()  # the sender's own: tries of one event have one id


_SCHEMES: dict[str, Callable[[str, Delivery], str]] = {
    "github": _github,
    "stripe": _stripe,
    "slack": _slack,
    "standard": _standard,
}
SCHEMES = (*_SCHEMES, "hmac")
# scheme → the headers that it needs, and where its signed time is
_SAID: dict[str, tuple[tuple[str, ...], Callable[[Delivery], str] | None]] = {
    "github": (("x-hub-signature-256",), None),
    "stripe": (("stripe-signature",), _stripe_time),
    "slack": (("x-slack-signature",), lambda delivery: _header(delivery, "x-slack-request-timestamp")),
    "standard": (("webhook-id", "webhook-signature"), lambda delivery: _header(delivery, "webhook-timestamp")),
}


def _header(delivery: Delivery, name: str) -> str:
    value = delivery.headers.get(name, "")
    if not value:
        raise ValueError(f"the header {name} is missing")
    return value


def _fresh(stamp: str, now_s: int) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 13):
        raise ValueError("the signed time is none")
    if abs(now_s - int(stamp)) > FRESH_S:
        raise ValueError(f"the signed time is more than {FRESH_S} s from now")


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, sha256).digest()


def _same(header: str, given: list[str], *expected: str) -> None:
    matches = [hmac.compare_digest(one.encode(), right.encode()) for one in given for right in expected]
    if not any(matches):
        raise ValueError(f"the signature in {header} is not of this body and secret")
