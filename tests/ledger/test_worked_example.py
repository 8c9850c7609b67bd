"""docs/billing.md's month, worked through: the prices, the calls and every command are run; the output is its.

JIFFY_WRITE_DOCS=1 writes what the commands print into the document.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from jiffy.contract import meter
from tests.ledger.records import NOON_MS, meter_into, record
from tests.ledger.test_bill import Bill, bill, url  # noqa: F401
from tests.ledger.test_questions import DAY_MS

pytestmark = pytest.mark.redis
PATH = Path(__file__).parents[2] / "docs" / "billing.md"
BOOK = meter.Tariff(2)


def _october(redis_url: str) -> None:
    """The calls that the document tells of, spread over the month."""
    calls = []
    for n in range(4000):
        at_ms = NOON_MS - 31 * DAY_MS + n * 600_000
        if n % 4 == 0:
            one = record(
                "thumbnail", started_ms=at_ms, duration_us=120_000, memory_mb=512, tags="team=shop", tariff=BOOK
            )
            calls.append(one._replace(max_memory_bytes=150 * 2**20))
        else:
            one = record("hello", started_ms=at_ms, duration_us=12_000, tariff=BOOK)
            calls.append(one._replace(max_memory_bytes=60 * 2**20))
    meter_into(redis_url, *calls)


def test_the_month_in_the_document(
    bill: Bill,  # noqa: F811
    redis_url: str,
    tmp_path: Path,
) -> None:
    text = PATH.read_text()
    before, heading, rest = text.partition("## A month, worked through\n")
    section, following, after = rest.partition("\n## ")
    prices = tmp_path / "prices.toml"
    prices.write_text(re.search(r"```toml\n(.*?)```", section, re.S)[1])  # type: ignore[index]
    assert "price book 2 is published" in bill("prices", "set", str(prices)).stdout
    _october(redis_url)

    def run(block: re.Match[str]) -> str:
        done = []
        for line in block[1].splitlines():
            if line.startswith("$ "):
                words = shlex.split(line)
                assert words[1:3] == ["jiffy", "bill"]
                shown = bill(*words[3:])
                assert shown.returncode == 0, shown.stderr
                done.append(f"{line}\n{shown.stdout}")
        return f"```console\n{chr(10).join(done)}```"

    printed = re.sub(r"```console\n(.*?)```", run, section, flags=re.S)
    if os.environ.get("JIFFY_WRITE_DOCS"):
        PATH.write_text(f"{before}{heading}{printed}{following}{after}")
    else:
        assert printed == section
