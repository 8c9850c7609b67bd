"""An image in a tar: what `docker save` writes, or an OCI image layout. Reads members by name, unpacks none of them.

What is found is checked against the digests that name it. Layers are copied to files of their own, each once and all of
them within IMAGE_MAX_BYTES; what is in them is rootfs.py's to say. The archive itself is never inflated: reading here
and there in a compressed one starts from the beginning each time.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import image
from builder.tar import Tar
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed

DOCUMENT_MAX_BYTES = 4 * limits.MIB
LAYERS_MAX = 200
_MEMBERS_MAX = 2000
_CHUNK = 1024 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ACCEPTED = (*_MANIFESTS, *INDEXES)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image on this host."""

    config: dict[str, Any]  # OCI image configuration
    layers: tuple[Path, ...]  # files: tars, perhaps compressed


def read(path: Path, into: Path) -> Fetched:
    """The image in the archive at `path`, with its layers as files in the new folder `into`. Raises BuildFailed."""
    into.mkdir()
    try:
        with Tar.open(path, "r:") as tar:
            return _Archive(tar, into).read()
    except (tarfile.TarError, OSError, EOFError, ValueError, LookupError, RecursionError) as exc:
        wanted = "archive that `docker save` or OCI tools write, uncompressed as a whole"
        raise BuildFailed(f"image: {path.name} is no {wanted}: {exc}") from exc


class _Archive:
    def __init__(self, tar: Tar, into: Path) -> None:
        self._tar, self._into = tar, into
        self._members: dict[str, tarfile.TarInfo] = {}
        self._copied: dict[str, Path] = {}  # layers by name: engines list one that is empty as often as it is there
        self._taken = 0  # of them all
        for info in tar.each():
            if len(self._members) >= _MEMBERS_MAX:
                raise BuildFailed(f"image: its archive has more than {_MEMBERS_MAX} members")
            self._members[info.name.removeprefix("./")] = info

    def read(self) -> Fetched:
        if "index.json" in self._members:
            return self._of_layout()
        if "manifest.json" in self._members:
            return self._of_docker()
        raise BuildFailed("image: the archive holds neither an index.json nor a manifest.json")

    def _of_layout(self) -> Fetched:
        manifest = document(self._checked(chosen(document(self._bytes("index.json")))))
        if manifest.get("mediaType") in INDEXES or "manifests" in manifest:
            manifest = document(self._checked(chosen(manifest)))
        config, layers = parts(manifest)
        return Fetched(
            document(self._checked(config)),
            tuple(self._layer(n, blob(layer), described(layer)) for n, layer in enumerate(layers)),
        )

    def _of_docker(self) -> Fetched:
        listed = json.loads(self._bytes("manifest.json"))
        if not isinstance(listed, list) or len(listed) != 1:
            raise BuildFailed("image: the archive must hold one image; `docker save NAME:TAG` writes such a one")
        config = document(self._bytes(str(listed[0]["Config"])))
        names = [str(name) for name in listed[0]["Layers"]]
        if len(names) > LAYERS_MAX:
            raise BuildFailed(f"image: more than {LAYERS_MAX} layers")
        return Fetched(config, tuple(self._layer(n, name, "") for n, name in enumerate(names)))

    def _member(self, name: str) -> tarfile.TarInfo:
        info = self._members.get(name)
        if info is not None and info.issym():  # older engines link equal layers
            info = self._members.get(posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname)))
        if info is None or not info.isfile():
            raise BuildFailed(f"image: the archive lacks {name[:100]!r}")
        return info

    def _bytes(self, name: str) -> bytes:
        info = self._member(name)
        if info.size > DOCUMENT_MAX_BYTES:
            raise BuildFailed(f"image: {name[:100]!r} is larger than {DOCUMENT_MAX_BYTES} bytes")
        file = self._tar.extractfile(info)
        assert file is not None
        return file.read()

    def _checked(self, descriptor: Mapping[str, Any]) -> bytes:
        data = self._bytes(blob(descriptor))
        check(data, described(descriptor))
        return data

    def _layer(self, number: int, name: str, digest: str) -> Path:
        path, hashed = self._into / f"layer-{number}", hashlib.sha256()
        if name in self._copied:
            path.hardlink_to(self._copied[name])
            return path
        file = self._tar.extractfile(self._member(name))
        assert file is not None
        with path.open("xb") as out:
            while piece := file.read(_CHUNK):
                self._taken += len(piece)
                if self._taken > limits.IMAGE_MAX_BYTES:
                    raise BuildFailed(f"image: its layers have more than {limits.IMAGE_MAX_BYTES // limits.MIB} MiB")
                hashed.update(piece)
                out.write(piece)
        if digest and f"sha256:{hashed.hexdigest()}" != digest:
            raise BuildFailed(f"image: layer {number + 1} is not {digest}")
        self._copied[name] = path
        return path


# --- manifests ------------------------------------------------------------------------------------------------


def document(data: bytes) -> dict[str, Any]:
    """Raises BuildFailed."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BuildFailed(f"image: a manifest or configuration is not valid JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise BuildFailed("image: a manifest or configuration is no object")
    return found


def check(data: bytes, digest: str) -> None:
    """Raises BuildFailed when it is not what its digest says."""
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise BuildFailed(f"image: what should be {digest} is something else")


def chosen(index: Mapping[str, Any]) -> dict[str, Any]:
    """The descriptor, in an index, of the image for this machine. Raises BuildFailed."""
    manifests = index.get("manifests")
    entries = [entry for entry in manifests if isinstance(entry, dict)] if isinstance(manifests, list) else []
    wanted = image.architecture()
    for entry in entries:
        platform = entry.get("platform")
        if len(entries) == 1 and entry.get("mediaType") not in INDEXES and platform is None:
            return entry
        if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == ("linux", wanted):
            return entry
    named = [entry for entry in entries if entry.get("platform") is None]
    if len(named) == 1:
        return named[0]
    raise BuildFailed(f"image: none of its {len(entries)} variants is for linux/{wanted}, or several images are in it")


def parts(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The descriptors of configuration and layers. Raises BuildFailed."""
    config, layers = manifest.get("config"), manifest.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list) or len(layers) > LAYERS_MAX:
        raise BuildFailed(f"image: its manifest names no configuration, no layers, or more than {LAYERS_MAX}")
    for descriptor in (config, *layers):
        described(descriptor)
    return config, layers


def described(descriptor: object) -> str:
    """The digest in a descriptor. Raises BuildFailed."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BuildFailed(f"image: {str(digest)[:100]!r} is no sha256 digest")
    return digest


def blob(descriptor: object) -> str:
    """Where a layout has what is described. Raises BuildFailed."""
    return f"blobs/sha256/{described(descriptor).removeprefix('sha256:')}"
