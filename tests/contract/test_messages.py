"""Messages survive the wire, also between two releases; money's integers; names and paths that can't be abused."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jiffy.contract import errors, keys, layout, limits, meter, wire
from jiffy.contract.errors import JiffyError, PlatformError
from jiffy.contract.messages import (
    Answer,
    BuildEvent,
    FunctionStatus,
    Heartbeat,
    InvocationRecord,
    Layer,
    LogEntry,
    Outcome,
    Revision,
)

LAYERS = (Layer("base", "sha256:" + "a" * 64, 10), Layer("code", "sha256:" + "b" * 64, 1))
REVISION = Revision(
    *("default", "hello", 3, "sha256:" + "c" * 64, "python3.11", LAYERS, "hello:handler", 128, 3000, 100, False),
    *({"A": "b"}, ("GET /hello/{name}",), 1_700_000_000_000),
)
ANSWER = Answer("id", 1, Outcome.OK, b"{}", True, 2041, 100, 3400, 12, 20_000_000)
STATUS = FunctionStatus("default", "hello", 3, 1, 2, 0, 4, 10, 7, 1)
BEAT = Heartbeat("i", "host", 1, 2, "bwrap", False, 3, 4, 100, 512, {"python3.11": 2}, (STATUS,))
MESSAGES = [
    REVISION,
    ANSWER,
    BEAT,
    InvocationRecord("id", "default", "hello", 3, "done", 1, 1, ANSWER),
    InvocationRecord("id", "default", "hello", 3, "queued", 1, 0, None),
    LogEntry("id", 1, 3, 5, True, b"\xff text", 0, ("ok", 1, 2, 3, 4, 5)),
    BuildEvent("done", "text", "publish", 1, 2, False, 3, 4, True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_wire(message: wire.Message) -> None:
    back = wire.unpack(type(message), wire.pack(message))
    assert back == message
    assert type(back) is type(message)


def test_a_newer_releases_extra_field_is_ignored_and_a_missing_new_one_has_its_default() -> None:
    assert wire.unpack(Answer, msgpack.packb((*ANSWER, "new"))) == ANSWER
    assert wire.unpack(Answer, msgpack.packb(ANSWER[:-1])) == ANSWER


@given(st.binary(max_size=200))
@example(b"\x80")  # a map where a list is to be
def test_garbage_is_a_platform_error(data: bytes) -> None:
    for kind in (Revision, Answer, Heartbeat, InvocationRecord):
        try:
            found: object = wire.unpack(kind, data)
        except PlatformError:
            continue
        assert isinstance(found, kind)


@given(st.integers(0, 10**9))
def test_billed_time_rounds_up_to_whole_steps(duration_us: int) -> None:
    billed = meter.billed_ms(duration_us, Outcome.OK)
    assert billed % limits.BILLING_STEP_MS == 0
    assert billed >= limits.BILLING_STEP_MS
    assert billed * 1000 >= duration_us
    assert billed == limits.BILLING_STEP_MS or (billed - limits.BILLING_STEP_MS) * 1000 < duration_us


@pytest.mark.parametrize(("us", "ms"), [(0, 100), (1, 100), (100_000, 100), (100_001, 200), (718_650, 800)])
def test_the_edges_of_a_step(us: int, ms: int) -> None:
    assert meter.billed_ms(us, Outcome.ERROR) == ms


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.PLATFORM])
def test_what_never_ran_costs_nothing(outcome: Outcome) -> None:
    assert meter.billed_ms(10**6, outcome) == 0


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "md5:" + "a" * 64, "sha256:" + "A" * 64, "sha256:../../x", "sha256:" + "a" * 63 + "/"]
)
def test_only_a_digest_becomes_a_path(digest: str) -> None:
    with pytest.raises(ValueError, match="no sha256 digest"):
        layout.layer(Path("/data"), digest)


def test_no_two_keys_share_a_name() -> None:
    names = [
        *(keys.calls("x"), keys.answers("x"), keys.invocation("x"), keys.functions("x"), keys.function("x", "y")),
        *(
            keys.logs("x", "y"),
            keys.build("x", "y"),
            keys.source("x", "y"),
            keys.BUILDS,
            keys.USAGE,
            keys.provisioned("x"),
            keys.INVOKERS,
            keys.TENANTS,
        ),
        *(keys.BUILDERS, keys.FUNCTIONS_CHANGED),
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith(keys.P) for name in names)


def every_error(kind: type[JiffyError] = JiffyError) -> list[type[JiffyError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in every_error(child))]


def test_every_error_has_a_code_of_its_own_and_stands_in_the_drawing() -> None:
    kinds = every_error()
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")


def test_an_error_as_json() -> None:
    assert errors.Throttled("too many", retry_after_s=2).to_dict() == {
        "error": {"code": "throttled", "message": "too many", "retry_after_s": 2}
    }
    assert errors.NotFound("nothing").to_dict() == {"error": {"code": "not_found", "message": "nothing"}}
