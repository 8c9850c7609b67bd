"""Who and what may come in."""

from __future__ import annotations

import pytest

from gateway.admission import HEADERS_MAX, Admission, acting, check_size, known, known_name, read_head
from gateway.keyring import OWNER, Keyring
from jiffy.contract import limits
from jiffy.contract.errors import InvalidRequest, NotFound, PayloadTooLarge, Unauthorized, Unavailable

KEYS = Keyring("s3cret", None)


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer s3cret"),
        (b"authorization", b"bearer s3cret"),
        (b"x-api-key", b"s3cret"),
    ],
)
def test_the_key_opens_and_is_not_passed_on(header: tuple[bytes, bytes]) -> None:
    head = read_head([(b"host", b"x"), header], KEYS)
    assert (head.pairs, head.caller) == ([("host", "x")], OWNER)
    assert known([header], KEYS) is OWNER


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Basic s3cret")],
        [(b"authorization", b"s3cret")],
        [(b"authorization", b"Bearer")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", "s3crét".encode())],
        [(b"cookie", b"s3cret")],
    ],
)
def test_without_the_key_nothing_opens(headers: list[tuple[bytes, bytes]]) -> None:
    sent = any(name != b"cookie" for name, _ in headers)
    assert read_head(headers, KEYS).caller is known(headers, KEYS) is None
    with pytest.raises(Unauthorized, match="wrong API key" if sent else "set JIFFY_API_KEY"):
        acting(None, "default", headers)


def test_a_strangers_idempotency_key_is_passed_over() -> None:
    once = (b"idempotency-key", b"order-7")
    assert read_head([once], KEYS).once == ""
    assert read_head([once, (b"x-api-key", b"s3cret")], KEYS).once == read_head([once], None).once == "order-7"


def test_without_a_key_to_ask_for_authorization_belongs_to_the_function() -> None:
    assert read_head([(b"authorization", b"Bearer theirs")], None).pairs == [("authorization", "Bearer theirs")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"x" * limits.HEADERS_MAX_BYTES)],
        [(b"a", b"")] * (HEADERS_MAX + 1),
        [(b"content-length", b"-1")],
        [(b"content-length", b"1e9")],
        [(b"content-length", b"9" * 40)],
    ],
)
def test_hostile_headers_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidRequest):
        read_head(headers, None)


def test_headers_are_decoded_whatever_their_bytes() -> None:
    assert read_head([(b"x-name", bytes(range(128, 256)))], None).pairs[0][1] == bytes(range(128, 256)).decode(
        "latin-1"
    )


@pytest.mark.parametrize("name", ["", "..", "Hello", "a" * 65, "a:b", "a\nb", "héllo", "a--b"])
def test_names_that_no_function_can_have_are_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        known_name(name)


def test_sizes_are_bounded() -> None:
    check_size(limits.PAYLOAD_MAX_BYTES)
    with pytest.raises(PayloadTooLarge, match=str(limits.PAYLOAD_MAX_BYTES)):
        check_size(limits.PAYLOAD_MAX_BYTES + 1)


def test_calls_and_bytes_in_flight_are_bounded() -> None:
    admission = Admission(calls_max=2, held_max=100)
    admission.enter()
    admission.hold(60)
    admission.enter()
    with pytest.raises(Unavailable) as caught:
        admission.enter()
    assert caught.value.retry_after_s
    with pytest.raises(Unavailable):
        admission.hold(41)
    admission.leave(60)
    admission.hold(100)
    admission.enter()
    assert (admission.calls, admission.held) == (2, 100)
