"""`jiffy bill` as people and programs see it: the real command against a real ledger over HTTP."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import io
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import uvicorn

from gateway.app import control
from gateway.routes.costs import Costs
from gateway.routes.prices import Prices
from gateway.routes.statements import Statements
from gateway.routes.usage import UsageRoute
from jiffy.contract.messages import Outcome
from tests.ledger.conftest import opened, owned
from tests.ledger.records import NOON_MS, meter_into, minute, record

pytestmark = pytest.mark.redis
COLUMNS = 100
Bill = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def url(tmp_path: Path, redis_url: str) -> Iterator[str]:
    """Where a ledger answers over HTTP."""
    listener = socket.create_server(("127.0.0.1", 0))

    async def serve(ready: Callable[[uvicorn.Server], None]) -> None:
        async with opened(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", redis_url) as ledger:
            endpoints = [*Statements(ledger).endpoints(), *Costs(ledger, None).endpoints(), *Prices(ledger).endpoints()]
            app = owned(control([*endpoints, *UsageRoute(ledger).endpoints()]))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            ready(server)
            await server.serve([listener])

    servers: list[uvicorn.Server] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve(servers.append)))
    thread.start()  # the socket listens already: what comes early waits
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    servers[0].should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def bill(url: str) -> Bill:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        group = () if words[:1] in (("cost",), ("prices",)) else ("bill",)
        command = [sys.executable, "-m", "jiffy.cli.main", *group, *words]
        return subprocess.run(command, env=_environment(url), capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run


def _environment(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("JIFFY_API_KEY", "COLUMNS")}
    return {**kept, "JIFFY_URL": url, "TERM": "xterm"}


def _on_a_terminal(url: str, *words: str) -> str:
    """What a person sees, on a terminal that is COLUMNS wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "jiffy.cli.main", "bill", *words]
    with subprocess.Popen(command, env=_environment(url), stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:
            pass  # the other end is closed: how a terminal says that it is over
        finally:
            os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n")


def _three_calls(redis_url: str) -> None:
    meter_into(
        redis_url,
        record("hello", cold=True, revision=3, duration_us=1841),
        record(
            "thumbnail", trigger="route POST /thumbnail", duration_us=1_203_553, memory_mb=1769, started_ms=NOON_MS + 1
        ),
        record("hello", outcome=Outcome.OUT_OF_MEMORY, duration_us=305_553, started_ms=NOON_MS + 2),
        record("hello", outcome=Outcome.THROTTLED, duration_us=0, started_ms=NOON_MS + 3),
    )


def _prices(table: str) -> tuple[list[Decimal], Decimal]:
    """The last column: of the rows, and of the total."""
    lines = [line for line in table.partition("\n\n4 calls")[0].splitlines()[2:] if line.strip()]
    *rows, total = [Decimal(line.split()[-1]) for line in lines]
    assert lines[-1].startswith("total")
    return rows, total


def test_a_table_in_a_pipe_has_every_digit(bill: Bill, redis_url: str) -> None:
    _three_calls(redis_url)
    shown = bill()
    assert shown.returncode == 0 and shown.stderr == ""
    rows, total = _prices(shown.stdout)
    assert len(rows) == 4 and sum(rows) == total == Decimal("0.000039071756630859375")
    assert "out_of_memory" in shown.stdout and "1203.553" in shown.stdout and "\x1b" not in shown.stdout
    assert "4 calls on 2026-11-01 (UTC), in USD, by price book 1." in shown.stdout
    assert "1 call that never began, or that the platform failed, cost nothing." in shown.stdout
    assert "you were billed 289.053 ms more than used" in shown.stdout


def test_a_table_fits_a_terminal_and_still_adds_up(url: str, redis_url: str) -> None:
    _three_calls(redis_url)
    shown = _on_a_terminal(url)
    table = shown.partition("\n\n4 calls")[0]
    assert max(map(len, table.splitlines())) <= COLUMNS
    rows, total = _prices(shown)
    assert sum(rows) == total == Decimal("0.0000390718")
    assert "out_of_memory" in shown and "thumbnail" in shown and "rounded to fit" in shown


def test_wide_shows_whole_ids_and_triggers(bill: Bill, redis_url: str) -> None:
    one = record(trigger="route GET /hello/{name}")
    meter_into(redis_url, one)
    shown = bill("--wide").stdout
    assert one.invocation in shown and "route GET /hello/{name}" in shown
    assert one.invocation not in bill().stdout


def test_short_ids_tell_calls_apart(bill: Bill, redis_url: str) -> None:
    ids = [f"01a20c9e-c3e9-7010-bf28-91df{n}7952710" for n in range(3)]
    meter_into(redis_url, *(record(invocation=one) for one in ids), record(invocation=ids[0], attempt=2))
    names = [line.split()[0] for line in bill().stdout.splitlines()[2:6]]
    assert sorted(names) == ["07952710", "07952710#2", "17952710", "27952710"]


def test_rows_that_are_not_shown_stand_in_one_line(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS + n, duration_us=n * 99_999) for n in range(60)))
    shown = bill().stdout.splitlines()
    assert any(line.startswith("10 more ") for line in shown)
    prices = [Decimal(line.split()[-1]) for line in shown[2:] if re.match(r"[0-9a-f]{6,} |10 more|total", line)]
    assert len(prices) == 52 and sum(prices[:-1]) == prices[-1]


@pytest.mark.parametrize("by", ["function", "day", "total"])
def test_tables_of_sums(bill: Bill, redis_url: str, by: str) -> None:
    _three_calls(redis_url)
    rows, total = _prices(bill("--by", by).stdout)
    assert total == Decimal("0.000039071756630859375") and (by == "total" or sum(rows) == total)


def test_a_trigger_is_named_with_its_function(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, record("a", trigger="schedule nightly"), record("b", trigger="schedule nightly"))
    heads, *rows = [line.split() for line in bill("--by", "trigger").stdout.splitlines() if line]
    assert heads[:3] == ["function", "trigger", "calls"]
    assert [row[:4] for row in rows[1:3]] == [["a", "schedule", "nightly", "1"], ["b", "schedule", "nightly", "1"]]
    [row, _] = json.loads(bill("--by", "trigger", "--json").stdout)["rows"]
    assert (row["function"], row["trigger"]) == ("a", "schedule nightly")


def test_what_is_kept_ready_is_shown_beside_the_calls(bill: Bill, redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        'currency = "USD"\n[[book]]\nversion = 2\neffective_from = 2026-10-01\nper_gb_second = "0.0001"\n'
        'per_call = "0"\nper_provisioned_gb_second = "0.00001"\n'
    )
    assert bill("prices", "set", str(file)).returncode == 0
    meter_into(redis_url, minute("kept", memory_mb=1024, provisioned_ms=120_000, idle_ms=90_000))
    assert "Beside these calls, instances kept ready cost 0.00120 USD" in bill().stdout
    meter_into(redis_url, record("hello"))
    shown = bill("--by", "function").stdout
    assert re.search(r"^kept +0 +0 +0.000 +0 +120 +90 +0.0000 +0.0012", shown, re.M)
    assert "Instances were kept ready for 120.0 GB-s and idle in 75.0% of it; that cost 0.00120 USD." in shown
    *rows, total = [Decimal(found) for found in re.findall(r"^(?:kept|hello|total) .* (\S+)$", shown, re.M)]
    assert len(rows) == 2 and sum(rows) == total
    assert "120 × 0.00001" in bill("statement", "2026-11").stdout
    compared = json.loads(bill("--compare", "aws-lambda", "--json").stdout)["rows"]
    assert {row["function"]: row["aws-lambda"] for row in compared}["kept"] == "0.000500004"


def test_json_holds_all_pages(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS - n) for n in range(1100)))
    for words in (["--json"], ["--format", "json"]):
        document = json.loads(bill(*words).stdout)
        assert len({row["invocation"] for row in document["rows"]}) == document["total"]["calls"] == 1100
        assert sum(Decimal(row["price"]) for row in document["rows"]) == Decimal(document["total"]["price"])
    assert len(json.loads(bill("--json", "--limit", "7").stdout)["rows"]) == 7


def test_csv_is_one_line_per_call(bill: Bill, redis_url: str) -> None:
    _three_calls(redis_url)
    rows = list(csv.DictReader(io.StringIO(bill("--format", "csv").stdout)))
    assert [row["outcome"] for row in rows] == ["throttled", "out_of_memory", "ok", "ok"]
    assert sum(Decimal(row["price"]) for row in rows) == Decimal("0.000039071756630859375")
    assert len(list(csv.reader(io.StringIO(bill("--format", "csv", "--limit", "2").stdout)))) == 3


def test_filters_reach_the_ledger(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, record("a"), record("b", started_ms=NOON_MS - 7_200_000))
    for words, function in ((["--function", "b"], "b"), (["--since", "1h"], "a"), (["--until", "1h"], "b")):
        assert [row["function"] for row in json.loads(bill(*words, "--json").stdout)["rows"]] == [function]


def test_no_calls_is_no_table(bill: Bill) -> None:
    shown = bill()
    assert (shown.returncode, shown.stdout) == (0, "No calls, nothing to pay.\n")


def test_the_most_expensive_calls(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS - n, duration_us=n * 99_999) for n in range(9)))
    shown = bill("--top", "2").stdout
    rows = [line.split() for line in shown.splitlines()[2:6]]
    assert [row[6] for row in rows[:2]] == ["799.992", "699.993"] and rows[2][:2] == ["7", "more"]
    assert len(list(csv.reader(io.StringIO(bill("--top", "2", "--format", "csv").stdout)))) == 3


def test_tables_by_time_have_a_sparkline_and_those_by_function_advice(bill: Bill, redis_url: str) -> None:
    meter_into(redis_url, *(record("wide", memory_mb=512, started_ms=NOON_MS - n * 86_400_000) for n in range(10)))
    meter_into(redis_url, record("wide", memory_mb=512, duration_us=700_000, cold=True))
    shown = bill("--by", "day").stdout
    assert "Price, oldest to newest: ▂▂▂▂▂▂▂▂▂█" in shown and "9.1% of the calls were cold." in shown
    advice = (
        "wide never used more than 21.9 MiB: at 64 MB instead of 512 you would have saved 0.0000124 USD of 0.0000164."
    )
    assert advice in bill("--by", "function").stdout and advice in bill("advice").stdout
    assert json.loads(bill("advice", "--json").stdout)["advice"][0]["suggested_mb"] == 64


def test_a_month_is_shown_printed_and_closed(bill: Bill, redis_url: str, tmp_path: Path) -> None:
    meter_into(redis_url, record(tags="team=x", started_ms=NOON_MS - 86_400_000), record())
    assert "No month is closed yet" in bill("statements").stdout
    shown = bill("statement", "2026-10").stdout
    assert "2026-10, default: not closed yet" in shown and "to pay" in shown and "0.00000040833375" in shown
    page = tmp_path / "october.html"
    assert bill("statement", "2026-10", "--html", str(page)).stdout == f"written: {page}\n"
    assert page.read_text().startswith("<!doctype html>")
    closed = bill("close", "2026-10").stdout
    assert closed == "2026-10 is closed: statement 1, 0.00000040833375 USD\n"
    assert bill("close", "2026-11").returncode == 1 and "not over" in bill("close", "2026-11").stderr
    assert json.loads(bill("statements", "--json").stdout)["statements"][0]["number"] == 1
    assert json.loads(bill("--month", "2026-10", "--by", "tag:team", "--json").stdout)["rows"][0]["tag"] == "x"


def test_calls_are_compared_and_estimated(bill: Bill, redis_url: str) -> None:
    _three_calls(redis_url)
    shown = bill("--compare", "aws-lambda").stdout
    assert "aws-lambda, USD" in shown and "list price" in shown and "0.000039071756630859375" in shown
    estimate = bill("cost", "estimate", "--calls", "2e6", "--duration-ms", "120", "--memory-mb", "128").stdout
    assert "1.233335" in estimate and "0.2" in estimate and "the default runtime; --runtime names" in estimate
    assert bill("--compare", "gcp").returncode == 2


def test_price_books_are_listed_shown_and_published(bill: Bill, tmp_path: Path) -> None:
    listed = bill("prices", "list").stdout
    assert "0.0000166667" in listed and "published after its effective_from holds from its publication on" in listed
    file = tmp_path / "prices.toml"
    file.write_text(
        'currency = "USD"\n[[book]]\nversion = 2\neffective_from = 2026-10-01\nper_gb_second = "1"\nper_call = "0"\n'
    )
    said = "price book 2 is published; it is in force from now on (2026-11-01T12:00:00Z): calls before keep their"
    assert said in bill("prices", "set", str(file)).stdout
    assert "nothing new" in bill("prices", "set", str(file)).stdout
    assert json.loads(bill("prices", "show", "--json").stdout)["version"] == 2
    assert bill("prices", "show", "9").returncode == 1
    more = file.read_text().replace('"1"', '"3"')
    late, early = more.replace("= 2\n", "= 3\n"), more.replace("= 2\n", "= 4\n")
    file.write_text(late.replace("2026-10-01", "2026-12-01"))
    assert "3 is published; it will be in force for calls from 2026-12-01T00" in bill("prices", "set", str(file)).stdout
    file.write_text(early.replace("2026-10-01", "2026-09-01"))
    assert "before price book 2, so no call will be priced by it" in bill("prices", "set", str(file)).stdout
    file.write_text(more)
    assert "leave it as it is" in bill("prices", "set", str(file)).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "yesterday"], "since = 'yesterday'; allowed"),
        (["--by", "week"], "by = 'week'; allowed"),
        (["statement"], "Missing argument"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(bill: Bill, words: list[str], said: str) -> None:
    shown = bill(*words)
    assert shown.returncode == 2 and said in shown.stderr and shown.stdout == ""
