"""What the builder does without Redis and without a platform: makes an image, writes one to a file, says what is in it.

``python -m builder make`` is the far end of `jiffy build`: a request as JSON on stdin, events as JSON lines on stdout,
the last one "done" or "failed". ``export`` writes a revision's image for `docker load`; ``push`` sends it to a
registry; ``inspect`` is behind `jiffy image`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builder import image, inventory, lock, registry, sbom
from builder.build import Builder
from builder.part import Step
from builder.processes import Processes
from builder.runtimes.nodejs import node
from builder.runtimes.python import interpreter
from jiffy.contract.errors import InvalidRequest, JiffyError
from jiffy.contract.messages import BuildRequest, Revision
from jiffy.contract.registry import Reference, credentials
from jiffy.contract.spec import check_name


def make(argv: list[str]) -> int:
    """Reads ``{"function", "spec", "source", "archive"}``: as in a BuildRequest, and the archive's path."""
    parser = argparse.ArgumentParser(prog="builder make", description="Makes the image of a packed folder.")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="where layers are kept")
    parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="an archive, or DIR/ for a layout")
    parser.add_argument("--folder", action="store_true", help="the output is a folder: an OCI image layout")
    known = parser.parse_args(argv)
    os.umask(0o022)  # sandboxes' users read the layers
    asked = json.load(sys.stdin)
    try:
        revision = _make(asked, known.data.absolute())
        tag = f"{revision.function}:latest"
        write = image.export_folder if known.folder else image.export
        size = write(known.data, revision.image, known.output, tag)
    except JiffyError as exc:
        _say(kind="failed", error_code=exc.code, text=exc.message)
        return 1
    layers = [layer._asdict() for layer in revision.layers]
    _say(kind="done", image=revision.image, tag=tag, path=str(known.output), bytes=size, layers=layers)
    return 0


def _make(asked: Mapping[str, Any], data: Path) -> Revision:
    builder = Builder(data, interpreter.find_all(), os.environ, Processes(), nodes=node.find_all(os.environ))
    request = BuildRequest("offline", "local", asked["function"], dict(asked["spec"]), asked["source"], 0)
    return builder.make(request, Path(asked["archive"]).read_bytes(), _tell)


def _tell(step: Step) -> None:
    said = asdict(step)
    _say(kind="step", step=said.pop("name"), **said)


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def export(argv: list[str]) -> int:
    parser = _parser("export", "Writes an image for `docker load`.")
    parser.add_argument("file", type=Path, metavar="FILE", help="the archive to write")
    known = parser.parse_args(argv)
    name, found, digest = _find(known)
    tag = f"jiffy/{name}:{found}"
    size = image.export(known.data, digest, known.file, tag)
    print(f"{known.file}: {tag}, {size / 1e6:.1f} MB; docker load -i {known.file}")
    return 0


def push(argv: list[str]) -> int:
    parser = _parser("push", "Pushes an image to a registry.")
    parser.add_argument("reference", metavar="HOST/NAME[:TAG]", help="where to; the tag is `latest` if none is given")
    known = parser.parse_args(argv)
    _, _, digest = _find(known)
    to = Reference.parse(known.reference)
    basic = credentials(registry.docker_config(os.environ), to.host)
    registry.push(known.data, digest, to, basic, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps({"reference": f"{to.host}/{to.name}:{to.tag}", "image": digest}))
    return 0


def inspect(argv: list[str]) -> int:
    """Prints a JSON document: what is inside a revision's image, or its bill of materials."""
    parser = _parser("inspect", "Says what is inside an image, and why.")
    parser.add_argument("--sbom", action="store_true", help="its bill of materials instead: CycloneDX")
    parser.add_argument("--lock", action="store_true", help="its lock instead")
    known = parser.parse_args(argv)
    name, found, digest = _find(known)
    if known.lock:
        print(image.labels(known.data, digest).get(lock.LABEL, ""), end="")
        return 0
    taken = inventory.take(known.data, digest)
    told = {"function": name, "revision": found, **taken.to_dict()}
    parts = taken.image, taken.runtime, taken.packages
    print(sbom.document(name, *parts) if known.sbom else json.dumps(told, indent=2))
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"builder {command}", description=description)
    parser.add_argument("image", metavar="NAME[:REVISION]", help="the function, and which revision (the newest)")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument("--tenant", default="default", help=argparse.SUPPRESS)
    return parser


def _find(known: argparse.Namespace) -> tuple[str, int, str]:
    """(function, revision, digest) of the image that is asked for."""
    name, colon, number = known.image.partition(":")
    if colon and not number.isdecimal():
        raise InvalidRequest(f"{number!r} is no revision number")
    tenant = check_name(known.tenant, "tenant")
    return (name, *image.find(known.data, tenant, check_name(name), int(number or 0)))
