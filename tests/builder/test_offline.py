"""`jiffy build`: an image of a folder without a platform, the same wherever it is made, that other tools take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need

TOML = '[functions.hello]\nhandler = "hello:handler"\ndescription = "Greets."\n'
CODE = "def handler(event, context):\n    return 'hi'\n"


def folder(path: Path, toml: str = TOML, code: str = CODE) -> Path:
    path.mkdir(parents=True)
    (path / "jiffy.toml").write_text(toml)
    (path / "hello.py").write_text(code)
    return path


def build(data: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jiffy.cli.main", "build", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=100)


def test_an_image_is_the_same_in_another_folder_under_another_umask_locale_and_clock(
    warm_data: Path, tmp_path: Path
) -> None:
    one = build(warm_data, str(folder(tmp_path / "one")), "--output", str(tmp_path / "one.tar"), "--json")
    assert one.returncode == 0, one.stderr
    there = folder(tmp_path / "other" / "place")
    os.utime(there / "hello.py", (1, 1))
    before = os.umask(0o077)
    try:
        where = {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
        other = build(warm_data, str(there), "--output", str(tmp_path / "other.tar"), "--json", **where)
    finally:
        os.umask(before)
    first, second = (json.loads(done.stdout)["images"][0] for done in (one, other))
    assert (first["kind"], first["image"]) == ("done", second["image"])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_a_layout_is_written_once_and_names_its_layers(warm_data: Path, tmp_path: Path) -> None:
    source, out = folder(tmp_path / "f"), f"{tmp_path}/layout/"
    done = build(warm_data, str(source), "--output", out)
    assert done.returncode == 0, done.stderr
    assert "hello: base" in done.stderr
    assert "hello:latest" in done.stdout
    manifests = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    blob = tmp_path / "layout/blobs" / manifests[0]["digest"].replace(":", "/")
    labels = json.loads(blob.read_text())["annotations"]
    assert labels["org.opencontainers.image.title"] == "hello"
    assert labels["org.opencontainers.image.description"] == "Greets."
    again = build(warm_data, str(source), "--output", out)
    assert (again.returncode, "holds an image already" in again.stderr) == (1, True)


def test_what_can_t_be_built_says_so_and_writes_nothing(warm_data: Path, tmp_path: Path) -> None:
    bad = folder(tmp_path / "bad", code="def other(): ...\n")
    done = build(warm_data, str(bad), "--output", str(tmp_path / "bad.tar"))
    assert done.returncode == 1
    assert "jiffy: hello was not built: hello.py has no 'handler'" in done.stderr
    two = folder(tmp_path / "two", TOML + '[functions.more]\nhandler = "hello:handler"\n')
    done = build(warm_data, str(two), "--output", str(tmp_path / "two.tar"))
    assert (done.returncode, "choose one with --only" in done.stderr) == (1, True)
    assert not list(tmp_path.glob("*.tar"))


def test_skopeo_takes_the_archive_either_way(warm_data: Path, tmp_path: Path) -> None:
    need("" if shutil.which("skopeo") else "skopeo is not installed")
    archive = tmp_path / "hello.tar"
    assert build(warm_data, str(folder(tmp_path / "f")), "--output", str(archive)).returncode == 0
    for kind in ("oci-archive", "docker-archive"):
        done = subprocess.run(["skopeo", "inspect", f"{kind}:{archive}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["Labels"]["org.opencontainers.image.title"] == "hello"
        assert len(found["Layers"]) == 2
    done = subprocess.run(["skopeo", "inspect", "--config", f"oci-archive:{archive}"], capture_output=True, text=True)
    config = json.loads(done.stdout)
    assert config["config"]["User"] == "65534:65534"
    assert [step["created_by"] for step in config["history"]] == ["jiffy: base", "jiffy: code"]


@pytest.mark.root
def test_umoci_unpacks_the_layout(warm_data: Path, tmp_path: Path) -> None:
    need("" if shutil.which("umoci") else "umoci is not installed")
    assert build(warm_data, str(folder(tmp_path / "f")), "--output", f"{tmp_path}/layout/").returncode == 0
    command = ["umoci", "unpack", "--image", f"{tmp_path}/layout:latest", str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "bundle/rootfs"
    assert (root / "var/task/hello.py").read_text() == CODE
    assert (root / "var/runtime/agent.py").is_file()
