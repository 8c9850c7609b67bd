"""How a function comes of an image of others: fetch it, unpack its layers into one, and see what it starts.

Reads first: `Recipe.make`. Where an image comes from: archive.py here, engine.py and registry.py beside the builder's
other doors. Nothing of it runs while it is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from builder import engine, image, pull, registry, source
from builder.layers import LayerStore
from builder.part import Part, Source, Tell, size, timed
from jiffy.contract import limits
from jiffy.contract.access import DEFAULT_TENANT
from jiffy.contract.errors import BuildFailed
from jiffy.contract.messages import Process
from jiffy.contract.spec import FunctionSpec

from . import archive
from .archive import Fetched
from .rootfs import Rootfs

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


class Recipe:
    """Of one builder."""

    def __init__(self, store: LayerStore, environ: Mapping[str, str]) -> None:
        self._store = store
        self._environ = environ

    def make(self, of: Source, tell: Tell) -> Part:
        """Raises BuildFailed with the one line that its author needs, Unavailable when a registry doesn't answer."""
        spec = of.spec
        if spec.slim or of.locked is not None:
            raise BuildFailed('runtime = "image" takes the image as it is: slim and --locked are for others')
        with timed(tell, "fetch") as step:
            fetched = self._fetch(of)
            step.bytes = sum(path.stat().st_size for path in fetched.layers)
            step.text = (
                f"{spec.image}: {len(fetched.layers)} layer{'s' * (len(fetched.layers) != 1)}, {size(step.bytes)}"
            )
        with timed(tell, "base") as step:
            config = _table(fetched.config, "config")
            rootfs = _unpacked(fetched, of.folder / "spool")
            process = _process(spec, config, rootfs)
            root = of.folder / "root"
            rootfs.write(root, process.cwd)
            stored = self._store.put("base", root)
            step.bytes = stored.layer.size_bytes
            step.text = f"its layers as one, {size(step.bytes)}"
        return Part(
            runtime=spec.runtime,
            layers=[stored],
            code_bytes=0,
            command=process.args,
            locked=None,
            base=f"the layers of {spec.image}",
            process=process,
        )

    def _fetch(self, of: Source) -> Fetched:
        kind, _, name = of.spec.image.partition(":")
        into = of.folder / "image"
        if kind == "archive":
            source.unpack(of.archive, of.digest, of.code)
            path = of.code / name
            if not path.is_file() or not path.resolve().is_relative_to(of.code.resolve()):
                raise BuildFailed(
                    f"image: {name} is not in the packed folder; for an OCI archive, write !/{name} into .jiffyignore"
                )
            return archive.read(path, into)
        ours = of.tenant == DEFAULT_TENANT  # whose engine and credentials this host's are
        if kind == "docker":
            if not ours:
                raise BuildFailed("image: the engine's images are for the platform's owner; push it to a registry")
            file = of.folder / "saved.tar"
            engine.save(name, file, self._environ)
            return archive.read(file, into)
        return pull.pull(of.spec.image, into, registry.docker_config(self._environ), trusted=ours)


def _unpacked(fetched: Fetched, spool: Path) -> Rootfs:
    found = _table(fetched.config, "rootfs").get("diff_ids")
    diff_ids = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    if len(diff_ids) != len(fetched.layers) or not all(map(_DIFF_ID.fullmatch, diff_ids)):
        raise BuildFailed("image: its configuration doesn't name its layers")
    wanted = image.architecture()
    if fetched.config.get("architecture") != wanted or fetched.config.get("os") != "linux":
        raise BuildFailed(f"image: it is for {fetched.config.get('architecture')!r:.50}, and this host for {wanted!r}")
    rootfs = Rootfs(spool)
    for blob, diff_id in zip(fetched.layers, diff_ids, strict=True):
        rootfs.apply(blob, diff_id)
        blob.unlink()
    return rootfs


def _process(spec: FunctionSpec, config: Mapping[str, Any], rootfs: Rootfs) -> Process:
    """What is started, and how: what jiffy.toml says, else what the image does. Raises BuildFailed."""
    entrypoint = spec.entrypoint or _words(config, "Entrypoint")
    arguments = spec.command or (() if spec.entrypoint else _words(config, "Cmd"))  # as an engine has it
    command = (*entrypoint, *arguments)
    if not command:
        raise BuildFailed("image: it says nothing of what to start; set command in jiffy.toml")
    workdir = str(config.get("WorkingDir") or "/")
    env = dict(word.split("=", 1) for word in _words(config, "Env") if "=" in word and not word.startswith("="))
    taken = sum(len(word.encode()) for word in (*command, workdir, *env, *env.values()))
    if taken > limits.ENV_MAX_BYTES or not workdir.startswith("/") or "\0" in "".join((*command, workdir, *env)):
        most = limits.ENV_MAX_BYTES
        raise BuildFailed(f"image: its environment and command have {taken} bytes; at most {most} are allowed")
    first = command[0]
    if "/" in first:
        found = str(PurePosixPath(workdir, first))
    else:
        folders = (spec.env.get("PATH") or env.get("PATH") or _PATH).split(":")
        found = next((path for folder in folders if rootfs.executable(path := f"{folder}/{first}")), "")
    if not found or not rootfs.executable(found):
        raise BuildFailed(f"image: it has no executable {first[:100]!r}, which it is to start")
    return Process((found, *command[1:]), env, workdir, spec.http_port)


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key) or {}
    if not isinstance(found, dict):
        raise BuildFailed(f"image: {key} in its configuration is no object")
    return found


def _words(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = config.get(key) or ()
    if not isinstance(found, (list, tuple)) or not all(isinstance(word, str) for word in found):
        raise BuildFailed(f"image: {key} in its configuration is no list of strings")
    return tuple(found)
