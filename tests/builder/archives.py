"""Archives as users and attackers make them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import zipfile
from pathlib import Path


def entry(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for info, content in entries:
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack(files: dict[str, str]) -> bytes:
    return gzip.compress(tar(*(entry(name, text.encode()) for name, text in files.items())), mtime=0)


def digest(archive: bytes) -> str:
    return f"sha256:{hashlib.sha256(archive).hexdigest()}"


def wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> None:
    """A wheel for any machine in `folder`, for a resolver that is told to look there."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as out:
        for path, content in (files | {f"{info}/RECORD": record.encode()}).items():
            out.writestr(path, content)


def docker_archive(layers: list[bytes], **config: object) -> bytes:
    """An image as `docker save` writes it, of layers that are tars; `config` is what the image says of its process."""
    machines = {"x86_64": "amd64", "aarch64": "arm64"}
    about = {
        "architecture": machines.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    names = [f"{layers.index(layer)}/layer.tar" for layer in layers]  # equal ones are there once, as engines have it
    manifest = [{"Config": "config.json", "RepoTags": ["test:1"], "Layers": names}]
    documents = [("config.json", json.dumps(about).encode()), ("manifest.json", json.dumps(manifest).encode())]
    return tar(*(entry(name, data) for name, data in (*documents, *dict(zip(names, layers, strict=True)).items())))
