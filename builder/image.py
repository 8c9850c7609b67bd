"""OCI images: layers and a configuration become a manifest in the data folder's OCI layout; and a file to carry away.

An image is content-addressed and depends on nothing but its layers and the function's settings, so it is made before
its revision has a number; `name` gives it one afterwards. `export` writes an archive that `docker load`, podman and
skopeo take. No daemon and no registry is needed for any of this.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from builder.layers import LayerStore, StoredLayer, touch
from jiffy.contract import layout
from jiffy.contract.errors import Conflict, NotFound
from jiffy.contract.registry import MANIFEST

PORT = 8080
EPOCH = "1970-01-01T00:00:00Z"  # a date of making would make every build another image
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
WITH_AGENT = "interpreter, standard library, shared libraries, Jiffy's agent"
WITHOUT_AGENT = "what the program needs beside itself"
_COMMENTS = {
    "deps": "the packages that the function depends on",
    "code": "the function's own files",
}
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REF = "org.opencontainers.image.ref.name"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_PLATFORM = {"architecture": _MACHINES.get(platform.machine(), platform.machine()), "os": "linux"}


@dataclass(frozen=True, slots=True)
class Image:
    """What goes into an image beside its layers."""

    title: str
    description: str
    entrypoint: tuple[str, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    base: str = WITH_AGENT  # what its base layer holds
    workdir: str = layout.TASK_DIR
    port: int = PORT  # where it serves HTTP; 0: nowhere


def architecture() -> str:
    """This machine's, as images name it."""
    return _MACHINES.get(platform.machine(), platform.machine())


def write(store: LayerStore, image: Image, layers: tuple[StoredLayer, ...]) -> str:
    """Write configuration and manifest; the digest of the manifest."""
    return _manifest(store, _configuration(image, layers), layers, _annotations(image))


def write_layer(store: LayerStore, layer: StoredLayer) -> str:
    """Write the image of one layer alone, by which a registry keeps it; the digest of its manifest."""
    rootfs = {"type": "layers", "diff_ids": [layer.layer.digest]}
    return _manifest(store, {**_PLATFORM, "config": {}, "rootfs": rootfs}, (layer,), {})


def _manifest(
    store: LayerStore, config: Mapping[str, Any], layers: tuple[StoredLayer, ...], annotations: Mapping[str, str]
) -> str:
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": _CONFIG, **_blob(store, _encode(config))},
        "layers": [{"mediaType": _LAYER, "digest": s.blob, "size": s.blob_bytes} for s in layers],
        "annotations": annotations,
    }
    return str(_blob(store, _encode(manifest))["digest"])


def _configuration(image: Image, layers: tuple[StoredLayer, ...]) -> dict[str, Any]:
    return {
        **_PLATFORM,
        "created": EPOCH,
        "config": {
            "User": f"{layout.UID}:{layout.GID}",
            "ExposedPorts": {f"{image.port}/tcp": {}} if image.port else {},
            "Env": [f"{name}={value}" for name, value in sorted(image.env.items())],
            "Entrypoint": list(image.entrypoint),
            "WorkingDir": image.workdir,
            "Labels": {**_annotations(image), **image.labels},
        },
        "rootfs": {"type": "layers", "diff_ids": [s.layer.digest for s in layers]},
        "history": [
            {
                "created": EPOCH,
                "created_by": f"jiffy: {s.layer.kind}",
                "comment": _COMMENTS.get(s.layer.kind, image.base),
            }
            for s in layers
        ],
    }


def _annotations(image: Image) -> dict[str, str]:
    """The predefined keys of the OCI image specification that we know something for."""
    known = {"title": image.title, "description": image.description, "created": EPOCH, "vendor": "Jiffy"}
    return {f"org.opencontainers.image.{name}": text for name, text in known.items() if text}


def _encode(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _blob(store: LayerStore, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = store.blob_path(digest)
    if not touch(path):
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(data)
        draft.chmod(0o600)  # a configuration holds the function's environment
        draft.replace(path)
    return {"digest": digest, "size": len(data)}


# --- names --------------------------------------------------------------------------------------------------


def reference(tenant: str, function: str, number: int) -> str:
    """The name of a revision's image in index.json."""
    return f"{tenant}/{function}:{number}"


def name(data: Path, ref: str, digest: str) -> None:
    """Let `ref` name the image `digest` in index.json."""
    folder = data / layout.OCI
    entry = {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": blob_path(data, digest).stat().st_size,
        "annotations": {_REF: ref},
    }
    with _locked(folder):
        _write_index(folder, [*(m for m in _index(data) if _ref(m) != ref), entry])


def names(data: Path) -> dict[str, str]:
    """Every name in index.json → the digest of its image."""
    return {_ref(manifest): str(manifest["digest"]) for manifest in _index(data)}


def forget(data: Path, refs: Collection[str]) -> None:
    """Take these names out of index.json."""
    if refs:
        with _locked(data / layout.OCI):
            _write_index(data / layout.OCI, [m for m in _index(data) if _ref(m) not in refs])


def _ref(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("annotations", {}).get(_REF, ""))


def _write_index(folder: Path, manifests: list[dict[str, Any]]) -> None:
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    _replace(folder / "oci-layout", _LAYOUT)
    _replace(folder / "index.json", _encode(index))


def find(data: Path, tenant: str, function: str, number: int = 0) -> tuple[int, str]:
    """(number, digest) of a revision's image; the highest number when none is asked for. Raises NotFound."""
    prefix = f"{tenant}/{function}:"
    found: dict[int, str] = {}
    for ref, digest in names(data).items():
        if ref.startswith(prefix) and ref.removeprefix(prefix).isdecimal():
            found[int(ref.removeprefix(prefix))] = digest
    chosen = number or max(found, default=0)
    if chosen not in found:
        what = f"revision {number} of {function!r}" if number else f"function {function!r}"
        raise NotFound(f"{data} has no image of {what}; if its platform has another data folder, name that with --data")
    return chosen, found[chosen]


def _index(data: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads((data / layout.OCI / "index.json").read_text())["manifests"])
    except FileNotFoundError:
        return []


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two builders of one data folder write the index one after the other."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.chmod(0o600)
    draft.replace(path)


def blob_path(data: Path, digest: str) -> Path:
    """Where a part of an image lies."""
    layout.layer(data, digest)  # checks that it is a digest and no path
    return data / layout.OCI / "blobs" / "sha256" / digest.removeprefix("sha256:")


# --- export -------------------------------------------------------------------------------------------------


def export(data: Path, digest: str, path: Path, tag: str) -> int:
    """Write the image as an archive with the name `tag`, for `docker load` and OCI tools alike. Returns its bytes.

    Raises NotFound when a part of the image is not in the data folder.
    """
    path = path.absolute()
    draft = path.with_name(f".{path.name}.part")
    try:
        manifest = document(data, digest)
        with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as tar:
            _export(data, digest, manifest, tag, tar)
        draft.replace(path)
    except FileNotFoundError as exc:
        raise NotFound(f"can't export {tag}: there is no {exc.filename}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


def _export(data: Path, digest: str, manifest: dict[str, Any], tag: str, tar: tarfile.TarFile) -> None:
    parts = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    at = {part: f"blobs/sha256/{part.removeprefix('sha256:')}" for part in (*parts, digest)}
    docker = [{"Config": at[parts[0]], "RepoTags": [tag], "Layers": [at[part] for part in parts[1:]]}]
    _add(tar, "oci-layout", _LAYOUT)
    _add(tar, "index.json", _one_image(data, digest, tag))
    _add(tar, "manifest.json", _encode(docker))
    for part, inside in sorted(at.items()):
        source = blob_path(data, part)
        info = tarfile.TarInfo(inside)
        info.size, info.mode = source.stat().st_size, 0o644
        with source.open("rb") as file:
            tar.addfile(info, file)


def _one_image(data: Path, digest: str, tag: str) -> bytes:
    """The index.json of a layout that holds one image."""
    entry = {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": blob_path(data, digest).stat().st_size,
        "annotations": {_REF: tag.rpartition(":")[2], "io.containerd.image.name": f"docker.io/{tag}"},
    }
    return _encode({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]})


def export_folder(data: Path, digest: str, folder: Path, tag: str) -> int:
    """Write the image as an OCI image layout into the new or empty `folder`. Returns its bytes.

    Raises NotFound when a part of the image is not in the data folder, Conflict when the folder holds something.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    if any(blobs.iterdir()):
        raise Conflict(f"{folder} holds an image already; choose a new folder")
    manifest = document(data, digest)
    parts = [digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    try:
        for part in parts:
            shutil.copyfile(blob_path(data, part), blobs / part.removeprefix("sha256:"))
    except FileNotFoundError as exc:
        raise NotFound(f"can't export {tag}: there is no {exc.filename}") from exc
    (folder / "oci-layout").write_bytes(_LAYOUT)
    (folder / "index.json").write_bytes(_one_image(data, digest, tag))
    return sum(path.stat().st_size for path in blobs.iterdir())


def labels(data: Path, digest: str) -> dict[str, str]:
    """The labels of an image. Raises NotFound."""
    config = document(data, document(data, digest)["config"]["digest"])
    return dict(config["config"].get("Labels") or {})


def document(data: Path, digest: str) -> dict[str, Any]:
    """A manifest or configuration in the data folder. Raises NotFound."""
    try:
        return dict(json.loads(blob_path(data, digest).read_bytes()))
    except FileNotFoundError as exc:
        raise NotFound(f"{data} has no image {digest}") from exc


def _add(tar: tarfile.TarFile, inside: str, data: bytes) -> None:
    info = tarfile.TarInfo(inside)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, BytesIO(data))
