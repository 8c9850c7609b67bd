"""`jiffy rollback`: puts an earlier revision of a function back in service."""

from __future__ import annotations

import click

from jiffy.client import Client

from .screen import json_option, show_json


@click.command(short_help="Put an earlier revision back in service.")
@click.argument("name")
@click.argument("revision", required=False, type=click.IntRange(min=1))
@json_option
def rollback(name: str, revision: int | None, as_json: bool) -> None:
    """Put REVISION of the function NAME in service; without one, the revision before the live one.

    Nothing is built: the next call runs it, calls that run already end as they began. `jiffy show NAME` lists all
    revisions and marks the live one. The next deploy makes a new one.

    \b
    Examples:
      jiffy rollback hello
      jiffy rollback hello 3
    """
    with Client() as client:
        moved = client.rollback(name, revision)
    if as_json:
        show_json(moved)
    else:
        click.echo(f"{name}  revision {moved['revision']} is live  (was {moved['before']})")
