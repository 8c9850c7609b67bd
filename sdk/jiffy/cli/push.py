"""`jiffy push NAME HOST/NAME:TAG`: a function's image into a registry. Reads the platform's data folder here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from jiffy import home

from .screen import json_option, show_json


@click.command(short_help="Push a function's image to a registry.")
@click.argument("name", metavar="NAME[:REVISION]")
@click.argument("reference", metavar="HOST[:PORT]/NAME[:TAG]")
@click.option(
    "--data", type=click.Path(path_type=Path), help="The platform's data folder.  [default: ~/.local/share/jiffy]"
)
@json_option
def push(name: str, reference: str, data: Path | None, as_json: bool) -> None:
    """Push the image of a function's newest revision, or of the one you name, to a registry.

    Layers that the registry has are not sent again. Credentials are those of `docker login`. Registries on this machine
    are spoken to in plain HTTP, all others in HTTPS.

    \b
    Examples:
      jiffy push hello registry.example/team/hello
      jiffy push hello:3 127.0.0.1:5000/hello:3
    """
    command = [sys.executable, "-m", "builder", "push", name, reference, "--data", str(data or home.default())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        click.echo(f"jiffy: {done.stderr.strip().rpartition('builder: ')[2]}", err=True)
        sys.exit(1)
    found = json.loads(done.stdout)
    if as_json:
        show_json(found)
    else:
        click.echo(done.stderr, err=True, nl=False)
        click.echo(f"{found['reference']}  {found['image']}")
