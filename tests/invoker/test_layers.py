"""Layers that a host lacks come from a registry: once, whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import image
from builder import registry as pushing
from builder.layers import LayerStore, StoredLayer
from invoker.layers import Layers, unpack
from invoker.registry import Registry
from jiffy.contract import layout, limits
from jiffy.contract.errors import InvalidRequest, Unavailable
from jiffy.contract.messages import Layer
from jiffy.contract.registry import AUTH, Shelf
from tests import registries
from tests.builder.archives import digest, entry, tar

CODE = {"app.py": "x = 1\n", "sub/deep.txt": "y", "run": "#!/bin/sh\n"}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, StoredLayer]:
    """Another host's data folder, with one layer in it."""
    data = tmp_path / "first"
    store = LayerStore(data)
    with store.staging() as folder:
        tree = folder / "code"
        for name, text in CODE.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / "run").chmod(0o700)
        (tree / "link").symlink_to("sub/deep.txt")
        return data, store.put("code", tree, layout.TASK_DIR)


def push(made: tuple[Path, StoredLayer], shelf: Shelf, basic: str = "") -> int:
    data, stored = made
    manifest = image.write_layer(LayerStore(data), stored)
    return pushing.keep(data, shelf, {stored.layer.digest: manifest}, basic)


def seen(tree: Path) -> dict[str, tuple[int, float, str]]:
    """All that a sandbox could notice of a layer's tree."""
    return {
        path.relative_to(tree).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime,
            str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else "",
        )
        for path in (tree, *tree.rglob("*"))
    }


async def test_a_pulled_layer_is_the_one_that_was_pushed(
    made: tuple[Path, StoredLayer], data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… from a registry that wants a password, which is asked for by nobody who has not got it."""
    layer = made[1].layer
    (data_dir / layout.LAYERS).mkdir()
    with registries.registry(tmp_path, registries.locked(tmp_path)) as host:
        shelf = Shelf.parse(f"{host}/team")
        strange = Layers(data_dir, "inv", Registry(shelf))
        monkeypatch.setenv(AUTH, registries.USER)
        basic = shelf.basic({AUTH: registries.USER}, "")
        assert [push(made, shelf, basic), push(made, shelf, basic)] == [1, 0]
        with pytest.raises(Unavailable, match=f"other credentials.*{AUTH}"):
            await strange.ready([layer])
        layers = Layers(data_dir, "inv", Registry(shelf))
        assert layers.registry == f"{host}/team/layers"
        await layers.ready([layer])
        missing = Layer("code", "sha256:" + "0" * 64, 1)
        with pytest.raises(Unavailable, match="has no layer sha256:0000"):
            await layers.ready([layer, missing])
    await layers.ready([layer])  # which needs no registry any more
    ours, theirs = (layout.layer_tree(data, layer.digest) for data in (data_dir, made[0]))
    assert seen(ours) == seen(theirs)
    assert [path.name for path in (data_dir / layout.LAYERS).iterdir()] == [ours.parent.name]


async def test_a_registry_that_is_away_is_asked_again(
    made: tuple[Path, StoredLayer], data_dir: Path, tmp_path: Path
) -> None:
    (data_dir / layout.LAYERS).mkdir()
    with registries.Registry(tmp_path) as registry:
        shelf = Shelf.parse(f"http://{registry.host}")
        push(made, shelf)
        registry.stop()
        waiting = asyncio.create_task(Layers(data_dir, "inv", Registry(shelf)).ready([made[1].layer]))
        await asyncio.to_thread(registry.start)
        await waiting
    with pytest.raises(Unavailable, match=rf"the registry {registry.host} doesn't answer"):
        await Layers(data_dir, "inv", Registry(shelf)).ready([Layer("code", "sha256:" + "0" * 64, 1)])


class Stranger:
    """A registry that gives whatever it likes."""

    id = "stranger"

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, 0

    @contextmanager
    def blob(self, digest: str) -> Iterator[Iterator[bytes]]:
        self.asked += 1
        yield (self.content[at : at + 1000] for at in range(0, len(self.content), 1000))


async def test_a_layer_is_pulled_once_however_many_wait(data_dir: Path) -> None:
    (data_dir / layout.LAYERS).mkdir()
    plain = tar(entry("var", kind=tarfile.DIRTYPE, mode=0o755), entry("var/task/app.py", b"x = 1\n"))
    shelf = Stranger(gzip.compress(plain))
    layers = Layers(data_dir, "inv", shelf)
    layer = Layer("code", digest(plain), 6)
    await asyncio.gather(*(layers.ready([layer]) for _ in range(20)))
    assert shelf.asked == 1
    assert (layout.layer_tree(data_dir, layer.digest) / "app.py").read_text() == "x = 1\n"


HOSTILE = {
    "parent": entry("var/task/../../../x", b"x"),
    "absolute": entry("/x", b"x"),
    "elsewhere": entry("etc/x", b"x"),
    "device": entry("var/task/x", kind=tarfile.CHRTYPE),
    "hard link": entry("var/task/x", kind=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "twice": entry("var/task/app.py", b"x"),
}


LINKS = ("through a link", "link through a link")


@pytest.mark.parametrize("case", [*HOSTILE, *LINKS, "another", "damaged", "bomb", "cut"])
async def test_nothing_of_a_hostile_layer_remains(case: str, data_dir: Path, tmp_path: Path) -> None:
    """Even of one that its digest fits."""
    (data_dir / layout.LAYERS).mkdir()
    first = entry("var/task/app.py", b"x = 1\n")
    link = entry("var/task/l", kind=tarfile.SYMTYPE, linkname=str(tmp_path))
    second = entry("var/task/l/x", b"x"), entry("var/task/l/x", kind=tarfile.SYMTYPE, linkname="/")
    through = {name: (link, last) for name, last in zip(LINKS, second, strict=True)}
    plain = tar(first, *(through[case] if case in through else (HOSTILE[case],) if case in HOSTILE else ()))
    size, packed, named = 7, gzip.compress(plain), digest(plain)
    if case == "another":
        named = digest(b"other")
    elif case == "damaged":
        packed = b"no gzip"
    elif case == "bomb":
        size = -limits.LAYER_FILES_MAX * 5 * 512
    elif case == "cut":
        packed = packed[:-20]
    layers = Layers(data_dir, "inv", Stranger(packed))
    with pytest.raises(Unavailable):
        await layers.ready([Layer("code", named, size)])
    assert not list((data_dir / layout.LAYERS).iterdir())
    assert not (tmp_path / "x").is_symlink() and not (tmp_path / "x").exists()


names = st.sampled_from(
    [
        "var",
        "var/task",
        "var/task/a",
        "var/task/a/b",
        "var/task/l",
        "var/task/l/x",
        "var/task/../x",
        "/x",
        "..",
        "x",
        ".",
    ]
)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"Z"])
entries = st.lists(
    st.tuples(
        names, kinds, st.binary(max_size=20), st.sampled_from(["a", "/", "../..", "/tmp"]), st.integers(0, 0o7777)
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(made=entries, flips=st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 255)), max_size=3))
def test_whatever_a_layer_holds_nothing_gets_out(
    made: list[tuple[str, bytes, bytes, str, int]],
    flips: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(
        tar(*(entry(n, c if k == tarfile.REGTYPE else b"", k, linkname=to, mode=m) for n, k, c, to, m in made))
    )
    for at, bits in flips:
        data[at % len(data)] ^= bits
    around = tmp_path_factory.mktemp("fuzz")
    (around / "in").mkdir()
    with contextlib.suppress(Unavailable, OSError):
        unpack(io.BytesIO(bytes(data)), around / "in" / "tree", layout.TASK_DIR)
    assert [path.name for path in (*around.iterdir(), *(around / "in").iterdir())] == ["in", "tree"]
    for path in (around / "in" / "tree").rglob("*"):
        assert path.is_symlink() or path.is_dir() or (path.is_file() and not path.stat().st_mode & 0o7000)


def test_what_a_killed_invoker_left_goes_at_its_next_start(data_dir: Path) -> None:
    ours, other = (data_dir / layout.LAYERS / name for name in (".pull-inv-1-x", ".pull-inv-2-x"))
    for folder in (ours, other):
        (folder / "tree").mkdir(parents=True)
    Layers(data_dir, "inv-1", None)
    assert (ours.exists(), other.exists()) == (False, True)


def test_credentials_never_go_in_the_clear() -> None:
    shelf = Shelf.parse("http://registry.internal:5000/team")
    with pytest.raises(InvalidRequest, match="https only"):
        shelf.basic({AUTH: registries.USER}, "")
    assert shelf.basic({}, "") == ""
    with pytest.raises(InvalidRequest, match="user and password go into") as caught:
        Shelf.parse("http://jiffy:secret@registry.internal/team")
    assert "secret" not in caught.value.message
