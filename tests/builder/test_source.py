"""Hostile archives stay outside; honest ones arrive as they are."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import source
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed
from tests.builder.archives import digest, entry, pack, tar


def unpack(archive: bytes, into: Path) -> int:
    return source.unpack(archive, digest(archive), into)


def test_files_folders_and_inner_links_arrive(tmp_path: Path) -> None:
    archive = gzip.compress(
        tar(
            entry("./", kind=tarfile.DIRTYPE),
            entry("pkg", kind=tarfile.DIRTYPE),
            entry("pkg/main.py", b"x = 1\n", mode=0o600),
            entry("run.sh", b"#!/bin/sh\n", mode=0o700),
            entry("latest", kind=tarfile.SYMTYPE, linkname="pkg/main.py"),
            entry("pkg/up", kind=tarfile.SYMTYPE, linkname="../run.sh"),
            entry("copy.py", kind=tarfile.LNKTYPE, linkname="pkg/main.py"),
            entry("grüße/ü.txt", b"ok"),
            entry("pkg/__pycache__/main.cpython-311.pyc", b"stale"),
        )
    )
    root = tmp_path / "out"
    assert unpack(archive, root) == 6 + 10 + 6 + 2
    assert (root / "latest").read_text() == (root / "copy.py").read_text() == "x = 1\n"
    assert (root / "pkg/up").resolve() == (root / "run.sh").resolve()
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "pkg/main.py").stat().st_mode & 0o777 == 0o644
    assert (root / "grüße/ü.txt").exists()
    assert not (root / "pkg/__pycache__").exists()


HOSTILE = {
    "absolute": ([entry("/etc/x", b"x")], "absolute path"),
    "parent": ([entry("a/../../x", b"x")], "leaves the folder"),
    "parent inside": ([entry("a/../x", b"x")], "leaves the folder"),
    "symlink out": ([entry("l", kind=tarfile.SYMTYPE, linkname="../x")], "outside the folder"),
    "symlink circle": ([entry(a, kind=tarfile.SYMTYPE, linkname=b) for a, b in ("lm", "ml")], "without end"),
    "symlink long chain": (
        [entry(f"l{n}", kind=tarfile.SYMTYPE, linkname=f"l{n + 1}") for n in range(900)],
        "without end",
    ),
    "symlinks without number": (
        [entry(f"l{n}", kind=tarfile.SYMTYPE, linkname="x") for n in range(1_001)],
        "more than 1000 links",
    ),
    "symlink absolute": ([entry("l", kind=tarfile.SYMTYPE, linkname="/etc/passwd")], "outside the folder"),
    "symlink chain": (
        [
            entry("a/b", kind=tarfile.DIRTYPE),
            entry("s", kind=tarfile.SYMTYPE, linkname="."),
            entry("a/b/up", kind=tarfile.SYMTYPE, linkname="../../s/../x"),
        ],
        "outside the folder",
    ),
    "through a symlink": (
        [entry("d", kind=tarfile.SYMTYPE, linkname="."), entry("d/x", b"x")],
        "there twice",
    ),
    "hard link out": ([entry("l", kind=tarfile.LNKTYPE, linkname="/etc/passwd")], "no earlier file"),
    "hard link to nothing": ([entry("l", kind=tarfile.LNKTYPE, linkname="x")], "no earlier file"),
    "hard link to itself": ([entry("l", kind=tarfile.LNKTYPE, linkname="l")], "no earlier file"),
    "device": ([entry("d", kind=tarfile.CHRTYPE)], "character device"),
    "block device": ([entry("d", kind=tarfile.BLKTYPE)], "block device"),
    "fifo": ([entry("f", kind=tarfile.FIFOTYPE)], "FIFO"),
    "set-uid": ([entry("f", b"x", mode=0o4755)], "set-uid"),
    "twice": ([entry("f", b"1"), entry("f", b"2")], "there twice"),
    "file then folder": ([entry("f", b"1"), entry("f/g", b"2")], "there twice"),
    "case": ([entry("README", b"1"), entry("readme", b"2")], "one name where case"),
    "case of a folder": ([entry("A/x", b"1"), entry("a/y", b"2")], "one name where case"),
    "unicode form": ([entry("\u00e9", b"1"), entry("e\u0301", b"2")], "one name where case"),
    "control character": ([entry("a\nb", b"1")], "no printable UTF-8"),
    "no UTF-8": ([entry("a\udcff", b"1")], "no printable UTF-8"),
    "long path": ([entry("/".join(["d" * 20] * 40), b"1")], "longer than"),
    "long name": ([entry("n" * 300, b"1")], "longer than 255 bytes"),
    "huge extended header": ([entry("a", b"1", pax_headers={"comment": "x" * 200_000})], "extended header"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_entries_are_refused(case: str, tmp_path: Path) -> None:
    entries, told = HOSTILE[case]
    with pytest.raises(BuildFailed, match=told) as caught:
        unpack(gzip.compress(tar(*entries)), tmp_path / "out")
    assert caught.value.message.startswith("source: ")
    assert "\n" not in caught.value.message
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="digest"):
        source.unpack(pack({"a": "1"}), digest(b"other"), tmp_path / "out")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(keep: float, tmp_path: Path) -> None:
    archive = pack({f"{n}.py": os.urandom(300).hex() for n in range(50)})
    with pytest.raises(BuildFailed, match="truncated"):
        unpack(archive[: int(len(archive) * keep)], tmp_path / "out")


def test_a_tar_truncated_before_it_was_compressed_is_refused(tmp_path: Path) -> None:
    whole = tar(entry("a", b"x" * 5000))
    with pytest.raises(BuildFailed, match=r"truncated|not a readable tar"):
        unpack(gzip.compress(whole[:2000]), tmp_path / "out")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar(entry("a", b"1"), entry("b", b"2")))
    whole[1024 + 148 : 1024 + 156] = b"7777777\0"  # the second header's checksum
    with pytest.raises(BuildFailed, match="damaged"):
        unpack(gzip.compress(bytes(whole)), tmp_path / "out")


def test_neither_garbage_nor_a_second_archive_may_follow(tmp_path: Path) -> None:
    archive = pack({"a": "1"})
    with pytest.raises(BuildFailed, match="after the end"):
        unpack(archive + archive, tmp_path / "out")
    with pytest.raises(BuildFailed, match="not a valid gzip"):
        unpack(b"PK\x03\x04 not a tar", tmp_path / "out2")


def test_a_bomb_is_stopped_while_it_inflates(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    zeros = bytes(limits.MIB)
    archive = b"".join(packer.compress(zeros) for _ in range(330)) + packer.flush()
    assert len(archive) < limits.MIB
    with pytest.raises(BuildFailed, match="unpacks to more than"):
        unpack(archive, tmp_path / "out")


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    info, _ = entry("a")
    info.size = limits.SOURCE_UNPACKED_MAX_BYTES * 2
    with pytest.raises(BuildFailed, match="source: "):
        unpack(
            gzip.compress(info.tobuf(tarfile.PAX_FORMAT) + b"few bytes".ljust(512, b"\0") + bytes(1024)), tmp_path / "o"
        )


def test_an_archive_that_leads_in_circles_is_refused(tmp_path: Path) -> None:
    backwards = entry("__pycache__/x", b"", pax_headers={"size": "-2048"})
    with pytest.raises(BuildFailed, match="source: "):
        unpack(gzip.compress(tar(entry("a"), backwards)), tmp_path / "out")


def test_a_tower_of_extended_headers_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x"}
    header = info.tobuf(tarfile.PAX_FORMAT)[:1024]
    with pytest.raises(BuildFailed, match="source: "):
        unpack(gzip.compress(header * 2000 + tar(entry("a"))), tmp_path / "out")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    entries = [entry(f"d{n}", kind=tarfile.DIRTYPE) for n in range(limits.SOURCE_MAX_FILES + 1)]
    with pytest.raises(BuildFailed, match=f"more than {limits.SOURCE_MAX_FILES} files"):
        unpack(gzip.compress(tar(*entries), 1), tmp_path / "out")


names = st.sampled_from(
    ["a", "b", "a/b", "../c", "/d", "a/../../e", ".", "A", "l/x", "\u00e9", "..", "a//b", "x" * 260]
)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"Z"])
made = st.lists(st.tuples(names, kinds, st.binary(max_size=40), names, st.integers(0, 0o7777)), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=made, flips=st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 255)), max_size=3))
def test_whatever_comes_nothing_gets_out(
    entries: list[tuple[str, bytes, bytes, str, int]],
    flips: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(
        tar(*(entry(n, c if k == tarfile.REGTYPE else b"", k, linkname=to, mode=m) for n, k, c, to, m in entries))
    )
    for at, bits in flips:
        data[at % len(data)] ^= bits
    around = tmp_path_factory.mktemp("fuzz")
    out = around / "in" / "out"
    out.parent.mkdir()
    try:
        unpack(gzip.compress(bytes(data), 1), out)
    except BuildFailed as exc:
        assert "\n" not in exc.message
    assert [p.name for p in around.iterdir()] == ["in"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    for path in out.rglob("*"):
        if path.is_symlink():
            continue  # checked when all are made; a refused archive's folder is thrown away
        assert path.is_dir() or (path.is_file() and not path.stat().st_mode & 0o7000)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(archive=st.binary(max_size=400) | st.binary(max_size=2000).map(gzip.compress))
def test_noise_is_refused_in_one_line(archive: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        unpack(archive, tmp_path_factory.mktemp("noise") / "out")
    except BuildFailed as exc:
        assert exc.message.startswith("source: ")


def test_an_empty_tar_is_an_empty_folder(tmp_path: Path) -> None:
    assert unpack(gzip.compress(io.BytesIO(bytes(1024)).getvalue()), tmp_path / "out") == 0
    assert list((tmp_path / "out").iterdir()) == []
