"""`jiffy bill export`: every call, once, exact, in each format, however many pages the platform sends."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet
import pytest

from jiffy import parquet
from jiffy.client import Client
from tests.ledger.records import NOON_MS, meter_into, record
from tests.ledger.test_bill import Bill, bill, url  # noqa: F401

pytestmark = pytest.mark.redis
COUNT = 2500  # two full pages and a part


@pytest.fixture
def calls(redis_url: str) -> dict[str, int]:
    """id → billed ms"""
    made = [
        record(started_ms=NOON_MS - n // 3, duration_us=n * 7919, tags="team=x", trigger='route GET /"x",\u2028é')
        for n in range(COUNT)
    ]
    meter_into(redis_url, *made)
    return {one.invocation: one.billed_ms for one in made}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_call_is_in_the_file(
    bill: Bill,  # noqa: F811
    calls: dict[str, int],
    tmp_path: Path,
    form: str,
) -> None:
    file = tmp_path / f"calls.{form}"
    assert bill("export", str(file)).stdout == f"{COUNT:,} calls written to {file}\n"
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
    elif form == "jsonl":
        rows = [json.loads(line) for line in file.read_text().split("\n") if line]
    else:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    assert {row["invocation"]: int(row["billed_ms"]) for row in rows} == calls and len(rows) == COUNT
    assert {row["trigger"] for row in rows} == {'route GET /"x",\u2028é'}
    total = json.loads(bill("--by", "total", "--json").stdout)["total"]
    assert sum(Decimal(row["price"]) for row in rows) == Decimal(total["price"])
    assert sum(Decimal(row["duration_ms"]) for row in rows) == Decimal(total["duration_ms"])
    assert list(tmp_path.iterdir()).count(file) == 1 and not list(tmp_path.glob(".*.part"))


def test_parquet_has_numbers_and_times_not_texts(
    url: str,  # noqa: F811
    redis_url: str,
    tmp_path: Path,
) -> None:
    meter_into(redis_url, record(cold=True))
    with Client(url) as client:
        assert parquet.write(tmp_path / "one.parquet", client.usage_rows()) == 1
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["price"] == "decimal128(38, 30)" and kinds["started"] == "timestamp[ms, tz=UTC]"
    [row] = table.to_pylist()
    assert row["cold"] is True and row["started"].isoformat() == "2026-11-01T12:00:00+00:00"


def test_what_cannot_be_written_leaves_nothing(
    bill: Bill,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert "ends in none of .csv" in bill("export", str(tmp_path / "calls.xlsx")).stderr
    assert bill("export", str(tmp_path / "no" / "calls.csv")).returncode == 1
    assert bill("export", str(tmp_path / "calls.csv"), "--month", "2026-13").returncode == 2
    assert list(tmp_path.glob("*calls*")) == []
