"""Triggers in jiffy.toml: complete when they are right; when wrong, the file, the trigger and the key are named."""

from __future__ import annotations

import pytest

from jiffy.contract import limits, spec, triggers, wire
from jiffy.contract.errors import SpecError
from jiffy.contract.messages import BuildRequest

HEAD = '[functions.report]\nhandler = "report:handler"\n'


def toml(*tables: str) -> str:
    return HEAD + "".join(f"[[functions.report.triggers]]\n{table}\n" for table in tables)


def test_a_trigger_is_complete_named_and_reads_back_the_same() -> None:
    (one,) = spec.parse_toml(toml('type = "schedule"\ncron = "@daily"', 'type = "schedule"\nat = 2027-01-31T09:00:00'))
    assert [t["name"] for t in one.triggers] == ["schedule", "schedule-2"]
    assert set(one.triggers[0]) == {"name", "type", *triggers.SCHEDULE.options}
    assert one.triggers[1]["at"] == "2027-01-31T09:00:00"
    assert spec.parse_function("report", one.to_dict()) == one


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("cron = '@daily'", "number 1: type = None; allowed: schedule"),
        ("type = 'schedul'", "did you mean 'schedule'?"),
        ("type = 'schedule'", "'schedule': needs exactly one of cron, rate and at"),
        ("type = 'schedule'\ncron = '@daily'\nrate = 'rate(1 day)'", "exactly one"),
        ("type = 'schedule'\nname = 'nightly'\ncron = '61 * * * *'", "'nightly': cron = '61 * * * *'; allowed: five"),
        ("type = 'schedule'\ncron = '0 0 31 feb *'", "cron ="),
        ("type = 'schedule'\ncron = '@daily'\ntimezone = 'Mars'", "timezone = 'Mars'; allowed: a time zone"),
        ("type = 'schedule'\ncron = '@daily'\ntimezone = '../../etc/passwd'", "a time zone"),
        ("type = 'schedule'\nrate = 'rate(0 days)'", "rate(5 minutes)"),
        ("type = 'schedule'\nat = 'tomorrow'", "a time such as"),
        ("type = 'schedule'\ncron = '@daily'\noverlap = 'maybe'", '"allow", "skip", "queue"'),
        ("type = 'schedule'\ncron = '@daily'\njitter = 3", "did you mean 'jitter_s'?"),
        ("type = 'schedule'\ncron = '@daily'\nname = 'Bad Name'", "lower-case"),
        ("type = 'schedule'\ncron = '@daily'\nstart = 2027-01-02\nend = 2027-01-01", "start ="),
        (
            "type = 'schedule'\ncron = '@daily'\nstart = 2027-01-02T00:00:00\nend = 2027-01-01T00:00:00",
            "end is not after start",
        ),
        ("type = 'queue'\nsource = 'sqs://eu-west-1/123456789012/jobs'", "with an access key and its secret"),
        ("type = 'queue'\nsource = 'mqtt://host/a/#'", "%23"),
        ("type = 'queue'\nsource = 'kafka://host/orders/paid'", "TOPIC[?sasl=plain"),
        ("type = 'queue'\nsource = 'kafka://host/orders?sasl=none'", "TOPIC[?sasl=plain"),
        ("type = 'queue'\nsource = 'kafka://host/orders'\ndead_letter = 'orders'", "another topic"),
        ("type = 'queue'\nsource = 'mqtt://host/a/b+/c'", "one level"),
        ("type = 'queue'\nsource = 'mqtt://host/a/%23'", "dead_letter is missing"),
        ("type = 'queue'\nsource = 'mqtt://host/a/+'\ndead_letter = 'a/dead'", "hear it again"),
        ("type = 'queue'\nsource = 'mqtt://host/$share/g/a/%23'\ndead_letter = 'a/b/dead'", "hear it again"),
        ("type = 'queue'\nsource = 'sqs://k:s@eu-west-1/12/jobs'", "twelve digits"),
        ("type = 'queue'\nsource = 'sqs://k:s@eu-west-1/123456789012/a.b'", "up to 75 letters"),
        (
            "type = 'queue'\nsource = 'sqs://k:s@eu-west-1/123456789012/jobs.fifo'\ndead_letter = 'dead'",
            "a FIFO queue's is one too",
        ),
    ],
)
def test_a_mistake_names_its_place(table: str, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_toml(toml(table), "here/jiffy.toml")
    assert caught.value.message.startswith("here/jiffy.toml: [[functions.report.triggers]] ")
    assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_no_part_of_a_password_is_shown() -> None:
    table = "type = 'queue'\nsource = 'sqs://KEY:some/secret+x@eu-west-1/123456789012/jobs'"
    with pytest.raises(SpecError) as caught:
        spec.parse_toml(toml(table))
    assert "secret" not in caught.value.message and "some" not in caught.value.message
    assert "%2F" in caught.value.message


def test_names_are_taken_once_and_there_are_not_too_many() -> None:
    twice = "type = 'schedule'\nname = 'a'\ncron = '@daily'"
    with pytest.raises(SpecError, match="taken by another"):
        spec.parse_toml(toml(twice, twice))
    with pytest.raises(SpecError, match=f"at most {limits.TRIGGERS_MAX}"):
        spec.parse_toml(toml(*["type = 'schedule'\ncron = '@daily'"] * (limits.TRIGGERS_MAX + 1)))
    with pytest.raises(SpecError, match="bytes as JSON"):
        spec.parse_toml(toml(f"type = 'schedule'\ncron = '@daily'\ndetail = {{ x = '{'y' * 20_000}' }}"))


def test_a_webhooks_secret_must_be_in_the_functions_environment() -> None:
    table = "type = 'webhook'\nscheme = 'github'\nsecret_env = 'GITHUB_SECRET'"
    with pytest.raises(SpecError, match="'webhook': secret_env = 'GITHUB_SECRET', which is not in the function's env"):
        spec.parse_toml(toml(table))
    (one,) = spec.parse_toml(HEAD + "env = { GITHUB_SECRET = 'x' }\n" + toml(table).removeprefix(HEAD))
    assert one.triggers[0]["scheme"] == "github"


def test_a_declaration_that_came_by_the_wire_reads_the_same() -> None:
    """The builder checks it again, and there lists are tuples."""
    table = "type = 'topic'\ntopic = 'a'\nfilter = { x = [{ numeric = ['>', 1] }], y = { z = ['b'] } }"
    (one,) = spec.parse_toml(toml(table))
    request = BuildRequest("b", "default", "report", one.to_dict(), "sha256:0", 0)
    assert spec.parse_function("report", wire.unpack(BuildRequest, wire.pack(request)).spec) == one
