"""The statement as a page: complete in itself, nothing in it runs, and a real browser shows and prints it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.ledger import bookfile, database, statements
from gateway.ledger.page import page
from tests.conftest import need
from tests.ledger.records import NOON_MS, record
from tests.ledger.test_questions import DAY_MS, Desk
from tests.ledger.test_statements import BOOKS, NOVEMBER

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = '<script>alert("x")</script>\'"&'


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Two weeks of calls, with a trigger that was named to do harm."""
    engine = database.connect("sqlite://")
    desk = Desk(engine, bookfile.parse(BOOKS))
    for day in range(14):
        at = NOON_MS + day * DAY_MS
        desk.settle(*(record(f"f{n}", started_ms=at + n, duration_us=(day + 1) * 70_000 * n) for n in range(5)))
    desk.settle(*(record("wide", memory_mb=1024, trigger=EVIL, started_ms=NOON_MS + n) for n in range(20)))
    found = statements.statement(engine, "default", NOVEMBER, NOON_MS + 20 * DAY_MS)
    engine.dispose()
    return found


class Reader(HTMLParser):
    """All tags, the addresses in them, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "srcset") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.said += data


def test_it_needs_nothing_else_and_runs_nothing(document: dict[str, Any]) -> None:
    reader = Reader()
    reader.feed(page(document))
    assert "script" not in reader.tags and reader.loads == []
    assert reader.tags.count("svg") == 2 and reader.tags.count("table") == 3
    assert "url(" not in page(document) and "@import" not in page(document)
    assert EVIL in reader.said  # as text


def test_it_says_what_the_document_says(document: dict[str, Any]) -> None:
    reader = Reader()
    reader.feed(page(document))
    assert document["total"] in reader.said and document["list_price"] in reader.said
    assert "not closed" in reader.said and "2026-11" in reader.said
    assert "wide declares 1024 MB" in reader.said
    for one in (*document["functions"], *document["adjustments"]):
        assert one["price"] in reader.said
    closed = document | {"number": 17, "closed": "2026-12-01T00:00:00.000Z"}
    assert "Statement 17" in page(closed) and "does not change" in page(closed)


def test_a_month_without_calls_has_a_page() -> None:
    engine = database.connect("sqlite://")
    Desk(engine, bookfile.parse(BOOKS))
    empty = page(statements.statement(engine, "default", NOVEMBER, NOON_MS))
    engine.dispose()
    assert "No calls." in empty and "<svg" not in empty


def _browse(folder: Path, *words: str) -> bytes:
    need("" if BROWSER else "there is no chromium to look at the page with")
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'profile'}", *words, f"file://{folder / 'page.html'}"]
    return subprocess.run(command, capture_output=True, timeout=100, check=True, cwd=folder).stdout


def test_a_browser_shows_it_and_prints_it(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(document))
    _browse(tmp_path, "--screenshot=page.png", "--window-size=1000,1600", "--print-to-pdf=page.pdf")
    if not (tmp_path / "page.png").exists():  # some releases do one thing at a time
        _browse(tmp_path, "--screenshot=page.png", "--window-size=1000,1600")
    if not (tmp_path / "page.pdf").exists():
        _browse(tmp_path, "--print-to-pdf=page.pdf")
    with Image.open(tmp_path / "page.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert (0x3B, 0x6F, 0xD4) in colours  # the charts' bars
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 1 <= pages <= 3
