"""`jiffy build`: images of a folder's functions as files, without a platform. The builder makes them, in a process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from jiffy import home
from jiffy.client import declared
from jiffy.contract.errors import SpecError
from jiffy.contract.spec import FunctionSpec
from jiffy.package import Package, pack

from .screen import columns, json_option, say, show_json, size


@click.command(short_help="Make images of a folder's functions, without a platform.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", metavar="NAME", multiple=True, help="Build just this function of the file; may be repeated.")
@click.option(
    "--output", "-o", metavar="PATH", help="FILE.tar for an archive, DIR/ for an OCI image layout.  [default: NAME.tar]"
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder that keeps layers.  [default: ~/.local/share/jiffy]"
)
@json_option
def build(folder: Path, only: tuple[str, ...], output: str | None, data: Path | None, as_json: bool) -> None:
    """Make an image of each function that DIR/jiffy.toml declares. No platform has to run, and nothing is deployed.

    The archive is both an OCI image and a Docker archive. The image answers over HTTP on port 8080 by itself. The same
    folder gives the same image, whenever and wherever it is built on one machine.

    \b
    Examples:
      jiffy build
      jiffy build examples/hello --output hello.tar && docker load -i hello.tar
      jiffy build --only hello --output hello-layout/
    """
    specs = declared(folder, only)
    if output is not None and len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise SpecError(f"{folder} declares several functions ({names}): choose one with --only, or leave out --output")
    package, results = pack(folder), []
    for spec in specs:
        for event in _build(spec, package, output or f"{spec.name}.tar", data or home.default()):
            if event["kind"] == "step":
                if not as_json:
                    say(f"{spec.name}: {_step(event)}", err=True)
                continue
            results.append({"function": spec.name} | event)
            if not as_json:
                _tell(results[-1])
    if as_json:
        show_json({"images": results})
    if any(result["kind"] == "failed" for result in results):
        sys.exit(1)


def _build(spec: FunctionSpec, package: Package, output: str, data: Path) -> Iterator[dict[str, Any]]:
    """The builder's events for one function."""
    command = [sys.executable, "-m", "builder", "make", "--data", str(data), "--output", output]
    if output.endswith("/"):
        command.append("--folder")
    with tempfile.NamedTemporaryFile(prefix="jiffy-", suffix=".tar.gz") as archive:
        archive.write(package.data)
        archive.flush()
        asked = {"function": spec.name, "spec": spec.to_dict(), "source": package.digest, "archive": archive.name}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        assert process.stdin is not None and process.stdout is not None
        with process, process.stdin, process.stdout:
            process.stdin.write(json.dumps(asked))
            process.stdin.close()
            last = "step"
            for line in process.stdout:
                event = json.loads(line)
                last = event["kind"]
                yield event
        if last == "step":
            yield {
                "kind": "failed",
                "error_code": "platform_error",
                "text": f"the builder ended ({process.returncode})",
            }


def _step(event: dict[str, Any]) -> str:
    note = "cached" if event["cached"] else f"{event['elapsed_ms'] / 1000:.2f} s"
    return f"{event['step']:<8}{event['text']}  ({note})"


def _tell(result: dict[str, Any]) -> None:
    if result["kind"] == "failed":
        say(f"jiffy: {result['function']} was not built: {result['text']}", err=True)
        return
    click.echo(f"{result['path']}  {result['tag']}  {size(result['bytes'])}  {result['image']}")
    rows = [(layer["kind"], size(layer["size_bytes"]), layer["digest"]) for layer in result["layers"]]
    click.echo(columns(("LAYER", "SIZE", "DIGEST"), rows))
