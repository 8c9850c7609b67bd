"""`jiffy keys`: a file of hashes, edited with care."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jiffy.cli.main import main
from jiffy.contract.access import digest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def keys(file: Path, *words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, ["keys", *words, "--keys", str(file)])
    assert done.exit_code == status, done.output
    return done


def test_a_key_is_printed_once_and_only_its_hash_is_kept(file: Path) -> None:
    key = keys(file, "new", "ci", "--tenant", "acme", "--role", "invoke").stdout.strip()
    assert re.fullmatch(r"jk_[\w-]{43}", key)
    assert key not in file.read_text()
    assert digest(key) in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (listed,) = json.loads(keys(file, "list", "--json").stdout)["keys"]
    assert listed == {"name": "ci", "tenant": "acme", "role": "invoke"}
    assert key not in keys(file, "list").stdout


def test_what_people_wrote_into_the_file_stays(file: Path) -> None:
    keys(file, "new", "one")
    file.write_text(f"# ours\n{file.read_text()}\n# until March\n")
    file.chmod(0o640)
    keys(file, "new", "two")
    keys(file, "remove", "two")
    text = file.read_text()
    assert text.startswith("# ours\n")
    assert "# until March" in text
    assert "[keys.one]" in text
    assert "[keys.two]" not in text
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["keys.toml"]


def test_mistakes_change_nothing(file: Path) -> None:
    assert "can't read" in keys(file, "list", status=1).stderr
    assert "there is none" in keys(file, "remove", "ci", status=1).stderr
    assert not file.exists()
    keys(file, "new", "ci")
    before = file.read_text()
    assert "has a key 'ci' already" in keys(file, "new", "ci", status=1).stderr
    assert "can't name a key" in keys(file, "new", "C I", status=1).stderr
    assert "can't name a tenant" in keys(file, "new", "x", "--tenant", "a:b", status=1).stderr
    assert "there are ci" in keys(file, "remove", "x", status=1).stderr
    assert file.read_text() == before
    file.write_text(before + "[keys.broken")
    assert "is no TOML" in keys(file, "new", "x", status=1).stderr
    assert file.read_text() == before + "[keys.broken"
