"""Examples whose functions are called by events: what their READMEs say is done, on a whole platform."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import Up, platform, until

EXAMPLES = Path(__file__).parents[2] / "examples"


def commands(example: str) -> list[list[str]]:
    """The commands of a README's code blocks, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", (EXAMPLES / example / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.timeout(240)
def test_images_in_a_folder_become_thumbnails_that_a_second_function_hears_of(data_dir: Path, tmp_path: Path) -> None:
    incoming, source = tmp_path / "incoming", tmp_path / "source"
    incoming.mkdir()
    shutil.copytree(EXAMPLES / "image-pipeline", source)
    toml = source / "jiffy.toml"
    toml.write_text(toml.read_text().replace("/tmp/incoming", str(incoming)))
    made, up, deploy, copy, *rest = commands("image-pipeline")
    assert (made[0], up[:3], deploy[:2], copy[0]) == ("mkdir", ["jiffy", "up", "--files"], ["jiffy", "deploy"], "cp")
    with platform(data_dir, "--sandbox", "bwrap", "--files", str(incoming)) as running:
        running.jiffy("deploy", str(source))
        shutil.copy(EXAMPLES.parent / copy[1], incoming)
        (incoming / "broken.png").write_text("no image")
        (incoming / "notes.txt").write_text("no image, and nobody asked for it")

        def shown() -> Any:
            return running.get("/v1/triggers/thumbs/files").json()

        # One image is called for, and three times what is none; then the second function hears of the thumbnail.
        until(lambda: (shown()["fired"], shown()["dead"]) == (4, 1), within_s=60)
        until(lambda: running.get("/v1/triggers/gallery/topic").json()["fired"] == 1, within_s=60)
        log, triggers, events = [ran(running, words) for words in rest]
        assert "photo.jpg: 128x85" in log and "thumbs/files" in triggers and '"name": "photo.jpg"' in events
        assert "broken.png" in running.jiffy("topics", "events", "dead.thumbs.files").stdout
        toml.write_text(toml.read_text().replace(str(incoming), "/etc"))
        why = running.jiffy("deploy", str(source), status=1).stderr
        assert "/etc may not be watched; start the platform with --files /etc" in why


def ran(running: Up, words: list[str]) -> str:
    assert words[0] == "jiffy"
    return running.jiffy(*words[1:]).stdout
