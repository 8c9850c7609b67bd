"""Webhooks: the providers' own examples are genuine; whatever is changed about one is not."""

from __future__ import annotations

import base64
import hmac
from hashlib import sha256

import pytest

from jiffy.contract import webhooks
from jiffy.contract.webhooks import Delivery

NOW = 1_800_000_000
BODY = b'{"a": 1}'


def mac(secret: bytes, signed: bytes) -> bytes:
    return hmac.new(secret, signed, sha256).digest()


def signed(scheme: str, body: bytes = BODY, stamp: int = NOW, secret: str = "s3cret") -> dict[str, str]:
    key = secret.encode()
    if scheme == "github":
        return {"x-hub-signature-256": f"sha256={mac(key, body).hex()}"}
    if scheme == "stripe":
        return {"stripe-signature": f"t={stamp},v1={'0' * 64},v1={mac(key, f'{stamp}.'.encode() + body).hex()}"}
    if scheme == "slack":
        digest = mac(key, f"v0:{stamp}:".encode() + body).hex()
        return {"x-slack-request-timestamp": str(stamp), "x-slack-signature": f"v0={digest}"}
    if scheme == "standard":
        digest = base64.b64encode(mac(key, f"msg_1.{stamp}.".encode() + body)).decode()
        return {"webhook-id": "msg_1", "webhook-timestamp": str(stamp), "webhook-signature": f"v1,AAAA v1,{digest}"}
    return {"x-signature": base64.b64encode(mac(key, body)).decode()}


def test_githubs_example() -> None:
    """From docs.github.com: validating webhook deliveries, "Testing the webhook payload validation"."""
    headers = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
    assert webhooks.verify("github", "It's a Secret to Everybody", Delivery(headers, b"Hello, World!", NOW))


def test_slacks_example() -> None:
    """From api.slack.com/authentication/verifying-requests-from-slack."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    assert webhooks.verify("slack", "8f742231b10e8888abcd99yyyzzz85a5", Delivery(headers, body, 1531420618 + 10))


@pytest.mark.parametrize("scheme", webhooks.SCHEMES)
def test_a_genuine_delivery_has_one_id_and_a_changed_one_none(scheme: str) -> None:
    headers = signed(scheme)
    found = webhooks.verify(scheme, "s3cret", Delivery(headers, BODY, NOW))
    assert found == webhooks.verify(scheme, "s3cret", Delivery(headers, BODY, NOW + 60))
    for delivery, secret in (
        (Delivery(headers, BODY + b" ", NOW), "s3cret"),
        (Delivery(headers, BODY, NOW), "other"),
        (Delivery({}, BODY, NOW), "s3cret"),
        (Delivery(dict.fromkeys(headers, "é, v1=,=;"), BODY, NOW), "s3cret"),
    ):
        with pytest.raises(ValueError, match=r"missing|signature|signed time"):
            webhooks.verify(scheme, secret, delivery)


@pytest.mark.parametrize("scheme", ["stripe", "slack", "standard"])
@pytest.mark.parametrize("stamp", [NOW - webhooks.FRESH_S - 1, NOW + webhooks.FRESH_S + 1])
def test_an_old_delivery_is_refused_though_it_is_genuine(scheme: str, stamp: int) -> None:
    with pytest.raises(ValueError, match="from now"):
        webhooks.verify(scheme, "s3cret", Delivery(signed(scheme, stamp=stamp), BODY, NOW))


@pytest.mark.parametrize("scheme", webhooks.SCHEMES)
def test_what_no_body_could_make_genuine_is_known_by_its_headers(scheme: str) -> None:
    webhooks.hopeless(scheme, signed(scheme), NOW)
    with pytest.raises(ValueError, match="missing"):
        webhooks.hopeless(scheme, {}, NOW)
    if scheme not in ("github", "hmac"):
        with pytest.raises(ValueError, match="from now"):
            webhooks.hopeless(scheme, signed(scheme), NOW + webhooks.FRESH_S + 1)
