"""Images that others made: their layers as one folder, whatever a hostile one tries; and where they come from."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import docker
import pytest

from builder.build import Builder
from builder.processes import Processes
from builder.runtimes.image.archive import read
from builder.runtimes.image.rootfs import Rootfs
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed, SpecError
from jiffy.contract.messages import BuildRequest, Process, Revision
from tests.builder.archives import digest, docker_archive, entry, tar
from tests.conftest import need
from tests.registries import registry

Entry = tuple[tarfile.TarInfo, bytes]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return entry(name, kind=kind, linkname=target)


def folder(name: str) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, mode=0o755)


def unpacked(tmp_path: Path, *layers: list[Entry]) -> dict[str, str]:
    """Path → content, or "→ target", of what a sandbox would find there; what every one has is left out."""
    rootfs = Rootfs(tmp_path / "spool")
    for n, entries in enumerate(layers):
        blob = tmp_path / f"layer-{n}"
        data = tar(*entries)
        blob.write_bytes(gzip.compress(data) if n % 2 else data)
        rootfs.apply(blob, digest(data))
    root = tmp_path / "root"
    rootfs.write(root, "/")
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"→ {path.readlink()}"
        elif path.is_file() and path.stat().st_size:
            found[name] = path.read_text()
    return found


def test_a_layer_hides_and_replaces_what_is_below_it(tmp_path: Path) -> None:
    below = [
        *(folder("app"), entry("app/a", b"1"), entry("app/b", b"1"), entry("app/deep/c", b"1"), entry("gone/x", b"1")),
        *(link("lib", "usr/lib"), folder("usr/lib"), entry("kind", b"file"), link("usr/abs", "/app")),
    ]
    above = [
        *(entry("app/.wh.a"), entry("gone/.wh..wh..opq"), entry("gone/new", b"2"), entry("app/b", b"2")),
        *(entry("lib/libx.so", b"2"), folder("kind"), entry("kind/inside", b"2"), entry("usr/abs/d", b"2")),
        *(link("app/hard", "app/b", tarfile.LNKTYPE), entry("app/.wh.never")),
    ]
    found = unpacked(tmp_path, below, above)
    assert found == {
        **{"app/b": "2", "app/deep/c": "1", "app/hard": "2", "app/d": "2"},
        **{"gone/new": "2", "lib": "→ usr/lib", "usr/lib/libx.so": "2", "usr/abs": "→ /app", "kind/inside": "2"},
    }


def test_nothing_is_written_through_a_link_or_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    hostile = [
        *(
            link("host", str(outside)),
            entry("host/planted", b"x"),
            link("up", "../../../.."),
            entry("up/planted", b"x"),
        ),
        *(link("etc", str(outside)), link("proc", str(outside)), link("dev/x", "/dev/sda"), link("a", "a")),
    ]
    found = unpacked(tmp_path, hostile, [entry("host/.wh.kept"), entry("etc/passwd", b"root::0:0::/:\n")])
    assert (os.listdir(outside), (outside / "kept").read_text()) == (["kept"], "kept")
    assert found["planted"] == "x", "a link that leads up ends at the image's root"
    inside = str(outside).lstrip("/")
    assert found[f"{inside}/planted"] == "x", "and an absolute one begins there"
    assert not [name for name in ("etc", "proc") if (tmp_path / "root" / name).is_symlink()], "mounts go there"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([entry("../x", b"1")], "a path that leaves the image"),
        ([entry("a/../../x", b"1")], "a path that leaves the image"),
        ([entry("x" * 300, b"1")], "too long"),
        ([entry("f", b"1"), entry("f/inside", b"1")], "lies in something that is no folder"),
        ([link("a", "b"), link("b", "a"), entry("a/x", b"1")], "lies in something that is no folder"),
        ([link("h", "nowhere", tarfile.LNKTYPE)], "is a hard link to 'nowhere', which is no file"),
        ([link("l", "")], "is a link to a name that is empty"),
        ([entry("d/" * 900 + "f", b"1")], "more than 200 folders deep"),
        (
            [*(link(f"l{n}", f"l{n - 1}/" + "d/" * 99) for n in range(1, 25)), link("l0", "/"), entry("l24/f", b"1")],
            "more than 200 folders deep",
        ),
        (
            [
                *(folder(f"{'n' * 250}/" * 8) for _ in "1"),
                link("l", f"{'n' * 250}/" * 8),
                entry("l/" + "n" * 250, b"1"),
            ],
            "names are too long together",
        ),
        ([entry("f"), *(link(str(n), "f", tarfile.LNKTYPE) for n in range(10_001))], "more than 10000 hard links"),
        ([entry("f", kind=tarfile.GNUTYPE_SPARSE)], "is a sparse file"),
    ],
)
def test_what_no_image_needs_is_refused(tmp_path: Path, entries: list[Entry], says: str) -> None:
    with pytest.raises(BuildFailed, match=says):
        unpacked(tmp_path, entries)


def test_bounds_hold_whatever_headers_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_MAX_BYTES", 1000)
    monkeypatch.setattr(limits, "IMAGE_MAX_FILES", 10)
    with pytest.raises(BuildFailed, match="unpacks to more than"):
        unpacked(tmp_path / "a", [entry("f", b"x" * 600), link("g", "f", tarfile.LNKTYPE)])
    with pytest.raises(BuildFailed, match="more than 10 files"):
        unpacked(tmp_path / "b", [folder(str(n)) for n in range(11)])
    bomb = tmp_path / "bomb"
    bomb.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(BuildFailed, match="unpacks to more than"):
        Rootfs(tmp_path / "spool").apply(bomb, digest(bytes(1_000_000)))


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def test_a_layer_that_is_another_or_damaged_is_refused(tmp_path: Path) -> None:
    data = tar(entry("f", b"1"))
    for n, (blob, diff_id, says) in enumerate(
        [
            (data, digest(b""), "is not the one that its configuration names"),
            (data[:700], digest(data), "not a readable tar archive|is not the one|shorter"),
            (gzip.compress(data)[:-9], digest(data), "can't be read|not a readable"),
            (b"\x28\xb5\x2f\xfd" + data, digest(data), "zstd"),
        ]
    ):
        (tmp_path / f"blob-{n}").write_bytes(blob)
        with pytest.raises(BuildFailed, match=says):
            Rootfs(tmp_path / f"spool-{n}").apply(tmp_path / f"blob-{n}", diff_id)


# --- builds -----------------------------------------------------------------------------------------------------

SYSTEM = [entry("bin/server", b"#!", mode=0o755), entry("etc/config", b"1"), entry("app/run.sh", b"#!", mode=0o755)]
SAYS: dict[str, Any] = {"Entrypoint": ["server"], "Cmd": ["--all"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/app"}


class Host:
    def __init__(self, data: Path) -> None:
        self.data, self.builder = data, Builder(data, {}, {}, Processes())

    def make(self, archive: bytes, tenant: str = "default", **spec: Any) -> Revision:
        source = gzip.compress(tar(entry("app.tar", archive)), mtime=0)
        table = {"runtime": "image", "image": "archive:./app.tar"} | spec
        request = BuildRequest("b", tenant, "web", table, digest(source), 0)
        return self.builder.make(request, source, lambda step: None)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "data")


def test_what_is_started_is_what_the_image_says_or_jiffy_toml(host: Host) -> None:
    archive = docker_archive([tar(*SYSTEM)], **SAYS)
    made = host.make(archive, http_port=8080)
    assert made.process == Process(("/bin/server", "--all"), {"PATH": "/bin", "A": "1"}, "/app", 8080)
    assert [layer.kind for layer in made.layers] == ["base"]
    tree = layout.layer_tree(host.data, made.layers[0].digest)
    assert (tree / "etc/config").read_text() == "1" and (tree / "run/jiffy").is_dir()
    assert host.make(archive, http_port=8080) == made
    assert host.make(archive, command=["--one"]).process.args == ("/bin/server", "--one")  # type: ignore[union-attr]
    other = host.make(archive, entrypoint=["./run.sh"]).process
    assert other is not None and (other.args, other.http_port) == (("/app/run.sh",), 0)
    for spec, says in (
        ({"entrypoint": ["nowhere"]}, "has no executable 'nowhere'"),
        ({"entrypoint": ["/etc/config"]}, "has no executable '/etc/config'"),
        ({"image": "archive:other.tar"}, "other.tar is not in the packed folder.*!/other.tar"),
        ({"image": "docker:x", "tenant": "acme"}, "for the platform's owner"),
        ({"image": "127.0.0.1:1/x", "tenant": "acme"}, "this host's own"),
        ({"slim": True}, "takes the image as it is"),
    ):
        with pytest.raises(BuildFailed, match=says):
            host.make(archive, **spec)
    with pytest.raises(BuildFailed, match="nothing of what to start"):
        host.make(docker_archive([tar(*SYSTEM)]))
    for spec in ({"image": ""}, {"image": "archive:/etc/shadow"}, {"image": "archive:../x"}, {"image": "plain"}):
        with pytest.raises(SpecError):
            host.make(archive, **spec)


def test_an_archive_that_is_none_is_refused(host: Host) -> None:
    good = docker_archive([tar(*SYSTEM)], **SAYS)
    for archive, says in (
        (b"nothing", "no archive that"),
        (tar(entry("x", b"")), "neither an index.json nor a manifest.json"),
        (good.replace(b"amd64", b"mips9").replace(b"arm64", b"mips9"), "it is for 'mips9'"),
        (good.replace(b"0/layer.tar", b"1/layer.tar", 1), "lacks"),
        (tar(link("manifest.json", "/../x")), "lacks"),
        (gzip.compress(good), "uncompressed as a whole"),
    ):
        with pytest.raises(BuildFailed, match=says):
            host.make(archive)


def extended(headers: int, settings: int, kind: bytes = tarfile.XHDTYPE, files: int = 1) -> bytes:
    """A tar of empty files, with so many extended headers before each one, of so many settings each."""
    records = b"".join(b"8 %04x=\n" % n for n in range(settings))
    one = tar(entry("header", records, kind))[: 512 + (len(records) + 511) // 512 * 512]
    return (one * headers + tar(entry("f"))[:512]) * files + bytes(1024)


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (extended(1, 100_000), "an extended header of"),
        (extended(20, 10), "too many of them"),
        (extended(1, 1000, tarfile.XGLTYPE), "too many global headers"),
    ],
)
def test_extended_headers_are_bounded_wherever_a_tar_comes_from(
    host: Host, tmp_path: Path, archive: bytes, says: str
) -> None:
    with pytest.raises(BuildFailed, match=says):
        host.make(archive)
    (tmp_path / "layer").write_bytes(archive)
    with pytest.raises(BuildFailed, match=says):
        Rootfs(tmp_path / "spool").apply(tmp_path / "layer", digest(archive))


def test_what_headers_say_is_not_remembered(tmp_path: Path) -> None:
    data = extended(1, 2000, files=40)
    (tmp_path / "layer").write_bytes(data)
    tracemalloc.start()
    try:
        Rootfs(tmp_path / "spool").apply(tmp_path / "layer", digest(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * limits.MIB, f"{peak} bytes: 40 headers of 2,000 settings take more"


def test_a_layer_counts_once_however_often_it_is_listed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tar(*SYSTEM)
    once = host.make(docker_archive([layer], **SAYS))
    monkeypatch.setattr(limits, "IMAGE_MAX_BYTES", 2 * len(layer))
    monkeypatch.setattr(limits, "IMAGE_MAX_FILES", 1000)
    archive = tmp_path / "app.tar"
    archive.write_bytes(docker_archive([layer] * 50, **SAYS))
    assert len(read(archive, tmp_path / "same").layers) == 50
    assert host.make(docker_archive([layer] * 2, **SAYS)).layers == once.layers
    archive.write_bytes(docker_archive([layer, layer + bytes(512), layer + bytes(1024)], **SAYS))
    with pytest.raises(BuildFailed, match="its layers have more than"):
        read(archive, tmp_path / "other")


def test_the_same_image_comes_from_a_layout_a_registry_or_an_engine(
    host: Host, tmp_path: Path, docker_engine: docker.DockerClient
) -> None:
    need("" if shutil.which("skopeo") else "no skopeo here")
    archive = docker_archive([tar(*SYSTEM), tar(entry("etc/.wh.config"))], **SAYS)
    made = host.make(archive)
    (tmp_path / "app.tar").write_bytes(archive)

    def copy(to: str, *options: str) -> None:
        command = ["skopeo", "--insecure-policy", "copy", *options, f"docker-archive:{tmp_path}/app.tar", to]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    copy(f"oci-archive:{tmp_path}/oci.tar:x:1")
    assert host.make((tmp_path / "oci.tar").read_bytes()).layers == made.layers
    with registry(tmp_path) as at:
        copy(f"docker://{at}/team/web:1", "--dest-tls-verify=false")
        assert host.make(b"", image=f"{at}/team/web:1").layers == made.layers
        with pytest.raises(BuildFailed, match=r"has no team/web:2: 404"):
            host.make(b"", image=f"{at}/team/web:2")
        with pytest.raises(BuildFailed, match="404"):
            host.make(b"", image=f"{at}/team/web@sha256:{'0' * 64}")
    (loaded,) = docker_engine.images.load(archive)
    try:
        assert host.make(b"", image=f"docker:{loaded.short_id.removeprefix('sha256:')}").layers == made.layers
    finally:
        docker_engine.images.remove(loaded.id, force=True)
    with pytest.raises(BuildFailed, match="the engine has no image 'jiffy-test/nowhere:1'"):
        host.make(b"", image="docker:jiffy-test/nowhere:1")
    assert json.loads(json.dumps(made.spec))["image"] == "archive:app.tar"
