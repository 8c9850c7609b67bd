"""Sample events have Lambda's shapes: each is read as its documentation says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jiffy.contract import samples

NOW_MS = 1_800_000_000_000


def made(kind: str, data: Any) -> Any:
    return json.loads(samples.sample(kind, "thumbs", data, NOW_MS))


def test_each_kind_carries_the_data_where_lambda_has_it() -> None:
    data = {"key": "a cat/ö.png"}
    assert json.loads(made("sqs", data)["Records"][0]["body"]) == data
    assert json.loads(made("sns", data)["Records"][0]["Sns"]["Message"]) == data
    assert made("eventbridge", data)["detail"] == data
    assert made("cloudevent", data)["data"] == data
    assert json.loads(made("http", data)["body"]) == data
    schedule = made("schedule", data)
    assert (schedule["detail"], schedule["time"]) == (data, "2027-01-15T08:00:00Z")
    record = made("s3", data)["Records"][0]
    assert record["s3"]["object"]["key"] == "a+cat/%C3%B6.png"
    assert (record["eventName"], record["eventTime"]) == ("ObjectCreated:Put", "2027-01-15T08:00:00.000Z")


@pytest.mark.parametrize("kind", sorted(samples.KINDS))
@pytest.mark.parametrize("data", [None, "text", 3, [1], {}])
def test_any_data_makes_an_event(kind: str, data: Any) -> None:
    assert isinstance(made(kind, data), dict)
