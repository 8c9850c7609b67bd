"""What a deploy uploads: the same bytes for the same files, nothing that is ignored, nothing from outside."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from jiffy.contract import limits
from jiffy.contract.errors import PayloadTooLarge, SpecError
from jiffy.package import pack


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(pack(folder).data)) as tar:
        return tar.getnames()


def test_equal_files_make_equal_bytes(tmp_path: Path) -> None:
    files = {"b.py": "b", "a.py": "a", "pkg/c.py": "c"}
    one = write(tmp_path / "one", files)
    two = write(tmp_path / "two", dict(reversed(files.items())))
    os.utime(two / "a.py", (1, 1))
    (two / "a.py").chmod(0o600)
    assert pack(one) == pack(two)
    (two / "a.py").chmod(0o700)
    assert pack(one).digest != pack(two).digest


def test_the_archive_says_nothing_about_this_machine(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(write(tmp_path, {"a.py": "a"})).data)) as tar:
        (entry,) = tar.getmembers()
    assert (entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime, entry.mode) == (0, 0, "", "", 0, 0o644)


def test_what_always_stays_out(tmp_path: Path) -> None:
    files = [
        "a.py",
        ".git/config",
        "__pycache__/a.pyc",
        "pkg/__pycache__/b.pyc",
        ".venv/x",
        "pkg/node_modules/y",
        ".jiffy/z",
    ]
    files += ["jiffy.toml", ".gitignore", ".jiffyignore", "pkg/jiffy.toml"]
    assert names(write(tmp_path, dict.fromkeys(files, ""))) == ["a.py", "pkg/jiffy.toml"]


def test_ignore_files_as_git_reads_them(tmp_path: Path) -> None:
    files = dict.fromkeys(
        ["keep.py", "a.log", "deep/b.log", "deep/kept.log", "out/x", "deep/out/y", "only/top", "deep/only/top"], ""
    )
    write(tmp_path, files | {".gitignore": "*.log\n/out/\nonly/top\n# comment\n", "deep/.gitignore": "!kept.log\n"})
    assert names(tmp_path) == ["deep/.gitignore", "deep/kept.log", "deep/only/top", "deep/out/y", "keep.py"]


def test_jiffyignore_has_the_last_word(tmp_path: Path) -> None:
    files = {"a.py": "", "model.bin": "", "notes.md": "", ".gitignore": "*.bin\n", ".jiffyignore": "*.md\n!model.bin\n"}
    assert names(write(tmp_path, files)) == ["a.py", "model.bin"]


def test_a_secret_that_the_repository_ignores_does_not_leave_the_machine(tmp_path: Path) -> None:
    write(tmp_path, {".git/HEAD": "", ".gitignore": ".env\n", "functions/f/a.py": "", "functions/f/.env": "KEY"})
    assert names(tmp_path / "functions/f") == ["a.py"]


def test_secrets_in_a_dotenv_file_are_packed_only_when_that_is_said(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", ".env": "KEY", "deep/.env": "KEY", ".env.example": ""})
    assert names(tmp_path) == [".env.example", "a.py"]
    write(tmp_path, {".jiffyignore": "!/.env\n"})
    assert names(tmp_path) == [".env", ".env.example", "a.py"]


def test_a_folder_that_its_repository_ignores_can_be_deployed_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, {".git/HEAD": "", ".gitignore": "build/\n", "build/f/a.py": ""})
    assert names(tmp_path / "build/f") == ["a.py"]


def test_images_that_jiffy_build_wrote_are_no_part_of_the_function(tmp_path: Path) -> None:
    layout = {"hello/oci-layout": "{}", "hello/index.json": "{}", "hello/blobs/sha256/ab": "layer"}
    write(tmp_path, {"a.py": "a", "data.tar": "the function's own"} | layout)
    with tarfile.open(tmp_path / "hello.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("oci-layout"))  # first, as builder.image writes it
    assert names(tmp_path) == ["a.py", "data.tar"]
    write(tmp_path, {".jiffyignore": "!hello.tar"})
    assert names(tmp_path) == ["a.py", "data.tar", "hello.tar"]


def test_links_inside_stay_links(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/a.py": "a"})
    (tmp_path / "b.py").symlink_to("pkg/a.py")
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path).data)) as tar:
        link = tar.getmember("b.py")
    assert link.issym() and link.linkname == "pkg/a.py"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../{name}/a.py", "missing/../../x"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    folder = write(tmp_path / "f", {"a.py": ""})
    write(tmp_path, {"outside": "secret"})
    (folder / "link").symlink_to(target.format(name="f"))
    with pytest.raises(SpecError, match="outside of the folder"):
        pack(folder)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="pipe is neither file"):
        pack(tmp_path)


def test_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to deploy"):
        pack(write(tmp_path, {"a.log": "", ".gitignore": "*"}))
    with pytest.raises(SpecError, match="not a folder"):
        pack(tmp_path / "a.log")


def test_too_large_says_how_large_and_what_to_do(tmp_path: Path) -> None:
    with (tmp_path / "noise.bin").open("wb") as out:
        out.write(os.urandom(limits.SOURCE_MAX_BYTES + limits.MIB))
    with pytest.raises(PayloadTooLarge, match=r"MiB when packed; at most 50 MiB.*\.jiffyignore"):
        pack(tmp_path)


def test_too_large_when_unpacked(tmp_path: Path) -> None:
    for n in range(2):
        with (tmp_path / f"sparse{n}").open("wb") as out:
            out.truncate(limits.SOURCE_UNPACKED_MAX_BYTES // 2 + 1)
    with pytest.raises(PayloadTooLarge, match="more than 250 MiB"):
        pack(tmp_path)


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.py")).write_text("")
    with pytest.raises(SpecError, match="not valid UTF-8"):
        pack(tmp_path)
