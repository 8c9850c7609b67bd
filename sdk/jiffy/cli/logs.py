"""`jiffy logs`: what a function printed, under the invocation that printed it."""

from __future__ import annotations

import contextlib

import click

from jiffy.client import Client

from .screen import json_option


@click.command(short_help="Show what a function printed.")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--invocation", metavar="ID", help="Just this call.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many calls back.")
@json_option
def logs(name: str, follow: bool, invocation: str | None, limit: int, as_json: bool) -> None:
    """Show what the function NAME printed: START, its lines, END and REPORT, for each call.

    \b
    Examples:
      jiffy logs hello
      jiffy logs hello --follow
      jiffy logs hello --invocation 019a…
    """
    form = "json" if as_json else "text"
    with Client() as client, contextlib.suppress(KeyboardInterrupt):
        for line in client.logs(name, follow=follow or None, invocation=invocation, limit=limit, format=form):
            click.echo(line)
