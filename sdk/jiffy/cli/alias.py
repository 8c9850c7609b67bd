"""`jiffy alias`: names for revisions of a function. See docs/functions.md."""

from __future__ import annotations

import json
from typing import Any

import click

from jiffy.client import Client
from jiffy.contract import aliases, spec
from jiffy.contract.aliases import LIVE
from jiffy.contract.errors import SpecError

from .screen import json_option, show_json


@click.group(short_help="Name revisions, and share calls among them.")
def alias() -> None:
    """Give revisions of a function names: calls to FUNCTION:ALIAS run what the alias names, whichever is live.

    \b
    Examples:
      jiffy alias set hello prod=3
      jiffy alias set hello prod=3 canary=4:10%
      jiffy alias set hello prod=3:90%,4:10%
      jiffy alias list hello
      jiffy alias remove hello canary
    """


@alias.command("set", short_help="Set aliases, or move them.")
@click.argument("function")
@click.argument("settings", nargs=-1, required=True, metavar="ALIAS=REVISION[:PERCENT%][,…]…")
@json_option
def set_alias(function: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Set aliases of FUNCTION. What percents leave of 100 goes to the live revision, whichever that is."""
    try:
        wanted = [aliases.parse(text) for text in settings]
    except SpecError as exc:
        raise click.UsageError(exc.message) from exc
    with Client() as client:
        for one in wanted:
            weights = {"live" if number == LIVE else str(number): percent for number, percent in one.shares}
            client.put_json(f"{_path(function)}/{one.name}", json.dumps({"weights": weights}).encode())
        _show(client, function, as_json)


@alias.command("list", short_help="List a function's aliases.")
@click.argument("function")
@json_option
def list_aliases(function: str, as_json: bool) -> None:
    """List the aliases of FUNCTION, and what they name."""
    with Client() as client:
        _show(client, function, as_json)


@alias.command(short_help="Remove an alias.")
@click.argument("function")
@click.argument("name", metavar="ALIAS")
@json_option
def remove(function: str, name: str, as_json: bool) -> None:
    """Remove an alias of FUNCTION; its revisions stay, and calls to it are 404 from now on."""
    with Client() as client:
        client.delete(f"{_path(function)}/{spec.check_name(name, 'alias')}")
    show_json({"removed": f"{function}:{name}"}) if as_json else click.echo(f"removed {function}:{name}")


def _path(function: str) -> str:
    return f"/v1/functions/{spec.check_name(function)}/aliases"


def _show(client: Client, function: str, as_json: bool) -> None:
    found = client.get_json(_path(function))
    if as_json:
        show_json(found)
    elif not found["aliases"]:
        click.echo(f"{function} has no alias; `jiffy alias set {function} prod=1` makes one", err=True)
    for one in () if as_json else found["aliases"]:
        click.echo(f"{function}:{one['alias']}  {_shares(one['weights'])}")


def _shares(weights: dict[str, Any]) -> str:
    named = {number if number == "live" else f"revision {number}": percent for number, percent in weights.items()}
    return ", ".join(f"{percent}% {name}" for name, percent in named.items())
