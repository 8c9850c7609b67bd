"""Layers in sandboxes' folders, as staging.py puts them there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from invoker.staging import Stage


@pytest.mark.root
@pytest.mark.parametrize("private", [True, False])
async def test_a_layer_that_was_removed_and_made_again_is_seen(private: bool, data_dir: Path) -> None:
    stage = Stage(data_dir, data_dir / "run" / "inv", private=private)
    await stage.open()
    try:
        tree = data_dir / "layers" / "sha256-x" / "tree"
        for sandbox in ("one", "two"):
            shutil.rmtree(tree.parent, ignore_errors=True)
            tree.mkdir(parents=True)
            (tree / "file").write_text(sandbox)
            await stage.run((stage.root / sandbox / "task").mkdir, parents=True)
            await stage.fill(sandbox, "task", tree)
            assert await stage.run((stage.root / sandbox / "task" / "file").read_text) == sandbox
            await stage.run(stage.empty, sandbox)
    finally:
        await stage.close()
