"""A layer depends on names, contents and x-bits; on nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.layers import LayerStore, StoredLayer
from jiffy.contract import layout


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def put(store: LayerStore, files: dict[str, str], mask: int = 0o022) -> StoredLayer:
    with umask(mask), store.staging() as folder:
        tree = folder / "code"
        tree.mkdir()
        for name, text in files.items():
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).write_text(text)
        return store.put("code", tree, layout.TASK_DIR)


def test_folder_umask_order_and_clock_don_t_matter(tmp_path: Path) -> None:
    files = {"b.py": "2", "a.py": "1", "d/c.py": "3"}
    one = put(LayerStore(tmp_path / "one"), files, 0o022)
    two = put(LayerStore(tmp_path / "elsewhere" / "two"), dict(reversed(files.items())), 0o077)
    assert one == two
    assert put(LayerStore(tmp_path / "one"), files | {"a.py": "other"}).layer.digest != one.layer.digest


def test_nobody_else_can_list_layers_or_images(tmp_path: Path) -> None:
    with umask(0o022):
        LayerStore(tmp_path / "data")
    assert {(tmp_path / "data" / name).stat().st_mode & 0o044 for name in (layout.LAYERS, layout.OCI)} == {0}


def test_the_digest_is_that_of_the_tar_and_the_tree_is_what_it_holds(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    stored = put(store, {"a.py": "1", "d/c.py": "3"}, 0o077)
    packed = store.blob_path(stored.blob).read_bytes()
    inside = gzip.decompress(packed)
    assert stored.blob == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert stored.layer.digest == f"sha256:{hashlib.sha256(inside).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(inside)) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["var", "var/task", "var/task/a.py", "var/task/d", "var/task/d/c.py"]
    assert {(m.uid, m.gid, m.mtime, m.uname) for m in members} == {(0, 0, 0, "")}
    tree = layout.layer_tree(tmp_path, stored.layer.digest)
    assert (tree / "d/c.py").read_text() == "3"
    assert {p.stat().st_mode & 0o7777 for p in (tree, tree / "d")} == {0o755}
    assert (tree / "a.py").stat().st_mode & 0o7777 == 0o644
    assert store.get(stored.layer.digest) == stored


def test_making_a_layer_again_keeps_the_tree_that_is_in_use(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    stored = put(store, {"a.py": "1"})
    inode = layout.layer_tree(tmp_path, stored.layer.digest).stat().st_ino
    assert put(store, {"a.py": "1"}) == stored
    assert layout.layer_tree(tmp_path, stored.layer.digest).stat().st_ino == inode
    assert not list((tmp_path / layout.LAYERS).glob(".staging-*"))


def test_a_layer_without_its_blob_counts_as_missing_and_heals(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    stored = put(store, {"a.py": "1"})
    store.blob_path(stored.blob).unlink()
    assert store.get(stored.layer.digest) is None
    assert put(store, {"a.py": "1"}) == stored == store.get(stored.layer.digest)


def test_a_layer_store_keeps_its_id_and_no_two_share_one(tmp_path: Path) -> None:
    first = LayerStore(tmp_path / "one").id
    assert first and LayerStore(tmp_path / "one").id == first
    assert LayerStore(tmp_path / "two").id != first


def test_sweeping_takes_what_was_left_and_spares_what_is_at_work(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    left = tmp_path / layout.LAYERS / ".staging-left"
    left.mkdir()
    with store.staging() as folder:
        LayerStore(tmp_path).sweep()
        assert folder.is_dir()
        assert not left.exists()
