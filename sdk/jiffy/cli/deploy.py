"""`jiffy deploy`: packs, uploads, and shows the builds as they go; progress on stderr, the URLs on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from jiffy.client import Client

from .screen import json_option, show_json, size

Show = Callable[[str, str], None]


@click.command(short_help="Build a folder's functions and put them in service.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", metavar="NAME", multiple=True, help="Deploy just this function of the file; may be repeated.")
@json_option
def deploy(folder: Path, only: tuple[str, ...], as_json: bool) -> None:
    """Build the functions that DIR/jiffy.toml declares and put them in service.

    Calls go on while it builds and switch to the new revision when that is ready. Nothing that changed: no new
    revision. A build that fails leaves the running revision in service.

    \b
    Examples:
      jiffy deploy
      jiffy deploy examples/hello
      jiffy deploy --only hello
    """
    done: list[dict[str, Any]] = []
    with Client() as client, _progress(quiet=as_json) as show:
        for event in client.deploy(folder, only):
            name, kind = event["function"], event["kind"]
            if kind == "done":
                done.append(_result(client, event))
            elif kind == "failed":
                done.append({"function": name, "error": {"code": event["error_code"], "message": event["text"]}})
            else:
                show(name, _step(event))
    if as_json:
        show_json({"functions": done})
    else:
        for result in done:
            _tell(result)
    if any("error" in result for result in done):
        sys.exit(1)


def _result(client: Client, event: dict[str, Any]) -> dict[str, Any]:
    return {
        "function": event["function"],
        "revision": event["revision"],
        "unchanged": event["unchanged"],
        "url": f"{client.url}/function/{event['function']}",
    }


def _tell(result: dict[str, Any]) -> None:
    if "error" in result:
        click.echo(f"jiffy: {result['function']} was not deployed: {result['error']['message']}", err=True)
        return
    unchanged = "  (unchanged)" if result["unchanged"] else ""
    click.echo(f"{result['function']}  revision {result['revision']}  {result['url']}{unchanged}")


def _step(event: dict[str, Any]) -> str:
    notes = [size(event["bytes"])] if event["bytes"] else []
    if event["cached"]:
        notes.append("cached")
    elif event["elapsed_ms"]:
        notes.append(f"{event['elapsed_ms'] / 1000:.2f} s")
    return f"{event['step']:<8}{event['text']}{'  (' + ', '.join(notes) + ')' if notes else ''}"


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Show]:
    """How one step is shown: plain lines, with a spinner below them on a terminal."""
    if quiet:
        yield lambda name, text: None
    elif not sys.stderr.isatty():
        yield lambda name, text: click.echo(f"{name}: {text}", err=True)
    else:
        from rich.console import Console  # 60 ms that only a terminal needs

        console = Console(stderr=True, highlight=False, markup=False)
        with console.status("uploading") as spinner:

            def show(name: str, text: str) -> None:
                console.print(f"{name}: {text}", style="dim", soft_wrap=True)
                spinner.update(f"building {name}")

            yield show
