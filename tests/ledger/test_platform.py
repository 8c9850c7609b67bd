"""A whole platform with price books of its own: what the caller is told, what the log says and what is billed agree."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

from tests.platforms import platform

FUNCTION = "import time\ndef f(event, context):\n    time.sleep(event['s'])\n    return event\n"
TOML = '[functions.nap]\nhandler = "m:f"\ntags = { team = "sleepers" }\n'
BOOK = """
[[book]]
version = {version}
effective_from = 2026-01-0{version}
per_gb_second = "0.0000{version}"
per_call = "0.0000002"
step_ms = {step}
"""


def test_the_header_the_log_and_the_bill_agree_whatever_the_price_book(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('currency = "EUR"\n' + BOOK.format(version=1, step=10))
    with platform(data_dir, "--sandbox", "bwrap", "--prices", str(file)) as up:
        up.deploy(tmp_path / "nap", TOML, m__py=FUNCTION)
        told = [up.invoke("nap", {"s": 0.013})]
        file.write_text(file.read_text() + BOOK.format(version=2, step=1))
        assert "price book 2 is published" in up.jiffy("prices", "set", str(file)).stdout
        assert up.get("/v1/prices").json()["in_force"] == 2
        told.append(up.invoke("nap", {"s": 0.013}))
        billed = [int(answer.headers["jiffy-billed-ms"]) for answer in told]
        rows = json.loads(up.jiffy("bill", "--json").stdout)["rows"][::-1]
        logged = [int(ms) for ms in re.findall(r"Billed Duration: (\d+) ms", up.jiffy("logs", "nap").stdout)]
        assert [row["billed_ms"] for row in rows] == billed == logged
        for row, step in zip(rows, (10, 1), strict=True):
            assert row["billed_ms"] % step == 0 and 0 <= row["billed_ms"] - Decimal(row["duration_ms"]) < step
        assert [row["price_book"] for row in rows] == [1, 2]
        assert [row["tags"] for row in rows] == ["team=sleepers"] * 2
        assert rows[0]["runtime"].startswith("python3.")
        assert Decimal(rows[1]["price"]) == Decimal(rows[1]["gb_seconds"]) * Decimal("0.00002") + Decimal("0.0000002")
        by_tag = json.loads(up.jiffy("bill", "--by", "tag:team", "--json").stdout)
        assert [(row["tag"], row["calls"]) for row in by_tag["rows"]] == [("sleepers", 2)]
