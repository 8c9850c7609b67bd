"""What the documents say is held against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jiffy.contract import spec, triggers

ROOT = Path(__file__).parents[2]


def test_the_table_of_keys_is_the_one_the_parser_uses() -> None:
    text = (ROOT / "docs" / "jiffy-toml.md").read_text()
    block = text.split("-->\n", 1)[1].split("<!-- end keys -->", 1)[0]
    rows = [f"| `{name}` | {key.default} | {key.allowed} | {key.meaning} |" for name, key in spec.KEYS.items()]
    assert block.strip().splitlines()[2:] == rows


def options_table(kind: str) -> str:
    """What docs/events.md says of a type of trigger; print it to write the page."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, option in triggers.KINDS[kind].options.items():
        try:
            option.check(object())
        except ValueError as exc:
            default = "" if option.default in ("", None) else json.dumps(option.default)
            rows.append(f"| `{name}` | {default} | {exc} | {option.meaning} |")
    return "\n".join(rows)


@pytest.mark.parametrize("kind", sorted(triggers.KINDS))
def test_the_tables_of_triggers_are_what_the_parser_uses(kind: str) -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    block = text.split(f"<!-- options {kind}: ", 1)[1].split("-->\n", 1)[1].split("<!-- end options -->", 1)[0]
    assert block.strip() == options_table(kind)


DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*/README.md"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}, which is not there"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_are_no_longer_than_those_of_code(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{name} has lines of more than 120 characters: {long}"
