"""`jiffy image NAME`: what is inside a function's image, and why. Reads the platform's data folder on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from jiffy import home

from .screen import columns, json_option, size


@click.command(short_help="Show what is inside a function's image, and why.")
@click.argument("name", metavar="NAME[:REVISION]")
@click.option("--lock", is_flag=True, help="Print its packages' versions and hashes instead: a requirements file.")
@click.option("--sbom", is_flag=True, help="Print its bill of materials instead: CycloneDX, JSON.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="The platform's data folder.  [default: ~/.local/share/jiffy]"
)
@json_option
def image(name: str, lock: bool, sbom: bool, data: Path | None, as_json: bool) -> None:
    """Show the layers of a function's image, its largest files and what brought each in, and your own code's share.

    The newest revision, if you name none. It reads the data folder, so it works where the platform runs.

    \b
    Examples:
      jiffy image hello
      jiffy image hello:3 --json
      jiffy image hello --sbom > hello.cdx.json
    """
    command = [sys.executable, "-m", "builder", "inspect", name, "--data", str(data or home.default())]
    other = [f"--{what}" for what, asked in {"lock": lock, "sbom": sbom}.items() if asked]
    done = subprocess.run([*command, *other], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        click.echo(f"jiffy: {done.stderr.strip().rpartition('builder: ')[2]}", err=True)
        sys.exit(1)
    if other or as_json:
        click.echo(done.stdout, nl=False)
    else:
        _show(json.loads(done.stdout))


def _show(found: dict[str, Any]) -> None:
    total, packed = size(found["size_bytes"]), size(found["compressed_bytes"])
    click.echo(f"{found['function']}, revision {found['revision']}: {total}, {packed} compressed  {found['image']}")
    click.echo(f"your own code is {found['user_share']:.2%} of it\n")
    layers = [
        (
            layer["kind"],
            size(layer["size_bytes"]),
            size(layer["compressed_bytes"]),
            layer["files"],
            layer["digest"][:19],
        )
        for layer in found["layers"]
    ]
    click.echo(columns(("LAYER", "SIZE", "COMPRESSED", "FILES", "DIGEST"), layers) + "\n")
    if found["packages"]:
        rows = [
            (package["name"], package["version"], size(package["bytes"]), package["license"])
            for package in sorted(found["packages"], key=lambda package: -package["bytes"])
        ]
        click.echo(columns(("PACKAGE", "VERSION", "SIZE", "LICENCE"), rows) + "\n")
    files = [(size(file["bytes"]), file["path"], file["brought_by"]) for file in found["largest"]]
    click.echo(columns(("SIZE", "LARGEST FILES", "BROUGHT BY"), files))
