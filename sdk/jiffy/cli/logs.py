"""`jiffy logs`: what a function printed, under the invocation that printed it."""

from __future__ import annotations

import contextlib
import sys

import click

from jiffy.client import Client

from .screen import json_option, say


@click.command(short_help="Show what a function printed.")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--invocation", metavar="ID", help="Just this call; the end of its id, as the bill shows it, will do.")
@click.option("--since", metavar="TIME", help="What is not older than 30s, 10m, 2h, 1d.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with when it got to the platform, in UTC.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many calls back.")
@json_option
def logs(
    name: str,
    follow: bool,
    invocation: str | None,
    since: str | None,
    timestamps: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show what the function NAME printed: START, its lines, END and REPORT, for each call.

    \b
    Examples:
      jiffy logs hello
      jiffy logs hello --follow
      jiffy logs hello --since 10m --timestamps
      jiffy logs hello --invocation 7c0e91d2
    """
    function, colon, _ = name.partition(":")
    if colon:
        raise click.UsageError(f"a log is its function's, whatever revision or alias was called: jiffy logs {function}")
    form = "json" if as_json else "text"
    found = False
    with Client() as client, contextlib.suppress(KeyboardInterrupt):
        for line in client.logs(
            name,
            follow=follow or None,
            invocation=invocation,
            since=since,
            timestamps=timestamps or None,
            limit=limit,
            format=form,
        ):
            found = True
            say(line)
    if invocation and not found:
        click.echo(f"jiffy: the log of {name} has nothing of an invocation {invocation}", err=True)
        sys.exit(1)
