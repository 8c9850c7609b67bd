"""`jiffy deploy`: packs, uploads, and shows the builds as they go; progress on stderr, the URLs on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

from jiffy.client import LAST_EVENTS, Client, declared
from jiffy.contract.errors import JiffyError, Unavailable
from jiffy.costs import Costs

from .screen import counted, json_option, say, short, show_json, size
from .warnings import warn_of_functions

Show = Callable[[str, str, bool], None]  # function, text, has it ended?
SHOWN_MAX = 3  # functions whose steps are worth a line each in a log
INTERRUPTED = 130  # what a shell makes of a program that Ctrl-C ended


@click.command(short_help="Build a folder's functions and put them in service.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", metavar="NAME", multiple=True, help="Deploy just this function of the file; may be repeated.")
@click.option("--locked", is_flag=True, help="With the very packages of the revision in service: name, version, hash.")
@click.option("--quiet", "-q", is_flag=True, help="Print no progress, just how it ended.")
@json_option
def deploy(folder: Path, only: tuple[str, ...], locked: bool, quiet: bool, as_json: bool) -> None:
    """Build the functions that DIR/jiffy.toml declares and put them in service.

    Calls go on while it builds and switch to the new revision when that is ready. Nothing that changed: no new
    revision. A build that fails leaves the running revision in service. Ctrl-C ends the command, not the build.

    \b
    Examples:
      jiffy deploy
      jiffy deploy examples/hello
      jiffy deploy --only hello
      jiffy deploy --locked
    """
    specs = declared(folder, only)
    going: list[str] = []  # are being built
    warnings: list[str] = []
    done: list[dict[str, Any]] = []
    with Client() as client:
        try:
            with _progress([one.name for one in specs], quiet=quiet or as_json) as show:
                for event in client.deploy(
                    folder, only, locked=locked
                ):  # begins all builds before it tells of the first
                    going = going or [one.name for one in specs]
                    if event["kind"] in LAST_EVENTS:
                        going.remove(event["function"])
                        done.append(_result(client, event))
                        show(event["function"], "failed" if event["kind"] == "failed" else "built", True)
                    elif event["step"] == "warning":
                        warnings.append(f"jiffy: warning: {event['function']}: {event['text']}")
                    else:
                        show(event["function"], _step(event), False)
        except (KeyboardInterrupt, Unavailable) as exc:
            _show(done, as_json)
            _interrupted(going, exc)
        _show(done, as_json)
        for line in warnings:
            say(line, err=True)
        warn_of_functions(client, specs)
    if any("error" in result for result in done):
        sys.exit(1)


def _show(done: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"functions": done})
    else:
        for result in done:
            _tell(result)


def _interrupted(going: list[str], why: BaseException) -> NoReturn:
    """Ends the command; what was begun goes on at the platform."""
    lost = isinstance(why, Unavailable)
    text = f"{why.message}; " if isinstance(why, Unavailable) else ""
    if going:
        when = " when it is back" if lost else ""
        text += f"the build of {', '.join(going)} goes on{when}; see: jiffy show {going[0]}"
    else:
        text += "see what is in service: jiffy list"
    click.echo(f"jiffy: {text}", err=True)
    sys.exit(1 if lost else INTERRUPTED)


def _result(client: Client, event: dict[str, Any]) -> dict[str, Any]:
    if event["kind"] == "failed":
        return {"function": event["function"], "error": {"code": event["error_code"], "message": event["text"]}}
    return {
        "function": event["function"],
        "revision": event["revision"],
        "unchanged": event["unchanged"],
        "url": client.url + _path(client, event["function"]),
        **_costs(client, event["function"]),
    }


def _path(client: Client, name: str) -> str:
    """Where it is called: a tenant's has its tenant in it. The host is the one that we know the platform by."""
    try:
        return urlsplit(str(client.function(name)["url"])).path
    except JiffyError:  # deployed it is
        return f"/function/{name}"


def _costs(client: Client, name: str) -> dict[str, Any]:
    """What it will cost; a deploy that succeeded is not spoilt by a ledger that is away."""
    try:
        found = Costs(client).function(name)
    except JiffyError:
        found = {"estimate": None, "kept_ready": None}
    return {key: found[key] for key in ("estimate", "kept_ready")}


def _tell(result: dict[str, Any]) -> None:
    if "error" in result:
        say(f"jiffy: {result['function']} was not deployed: {result['error']['message']}", err=True)
        return
    unchanged = "  (unchanged)" if result["unchanged"] else ""
    click.echo(f"{result['function']}  revision {result['revision']}  {result['url']}{unchanged}")
    if seen := result["estimate"]:
        click.echo(
            f"{result['function']}: about {short(seen['per_million'])} {seen['currency']} per million calls at "
            f"{seen['memory_mb']} MB, by the {counted(seen['calls_seen'], 'call')} of revision {seen['revision_seen']}",
            err=True,
        )
    if (kept := result["kept_ready"]) and kept["per_host_and_day"] != "0":
        click.echo(
            f"{result['function']}: {kept['min_instances']} kept ready, called or not: "
            f"{short(kept['per_host_and_day'])} {kept['currency']} a day on each host",
            err=True,
        )


def _step(event: dict[str, Any]) -> str:
    notes = [size(event["bytes"])] if event["bytes"] else []
    if event["cached"]:
        notes.append("cached")
    elif event["elapsed_ms"]:
        notes.append(f"{event['elapsed_ms'] / 1000:.2f} s")
    return f"{event['step']:<8}{event['text']}{'  (' + ', '.join(notes) + ')' if notes else ''}"


@contextlib.contextmanager
def _progress(names: list[str], *, quiet: bool) -> Iterator[Show]:
    """How one step is shown: plain lines, with a spinner below them on a terminal; elsewhere of many only the end."""
    many = len(names) > SHOWN_MAX
    if quiet:
        yield lambda name, text, last: None
    elif not sys.stderr.isatty():
        if many:
            say(f"building {', '.join(names)}", err=True)
        yield lambda name, text, last: say(f"{name}: {text}", err=True) if last is many else None
    else:
        from rich.console import Console  # 60 ms that only a terminal needs

        console = Console(stderr=True, highlight=False, markup=False)
        with console.status("uploading") as spinner:

            def show(name: str, text: str, last: bool) -> None:
                if last:
                    return
                console.print(f"{name}: {text}", style="dim", soft_wrap=True)
                spinner.update(f"building {name}")

            yield show
