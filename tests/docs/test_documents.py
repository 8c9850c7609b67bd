"""What the documents say is held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jiffy.contract import spec

ROOT = Path(__file__).parents[2]


def test_the_table_of_keys_is_the_one_the_parser_uses() -> None:
    text = (ROOT / "docs" / "jiffy-toml.md").read_text()
    block = text.split("-->\n", 1)[1].split("<!-- end keys -->", 1)[0]
    rows = [f"| `{name}` | {key.default} | {key.allowed} | {key.meaning} |" for name, key in spec.KEYS.items()]
    assert block.strip().splitlines()[2:] == rows


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{name} links to {target}, which is not there"
