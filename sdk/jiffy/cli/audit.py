"""`jiffy audit`: every total counted anew, and whether the books balance."""

from __future__ import annotations

import sys

import click

from jiffy.client import Client

from .screen import columns, json_option, show_json


@click.command(short_help="Count every total anew and say whether the books balance.")
@json_option
def audit(as_json: bool) -> None:
    """Count asynchronous calls, dead letters, deliveries and usage records anew, in Redis and in the ledger, and hold
    them against the counters that were kept in the steps that moved them.

    Exit code 1: something does not balance. "?" stands for what can't be said while calls are moving; ask again.

    \b
    Example:
      jiffy audit
    """
    with Client() as client:
        found = client.get_json("/v1/audit")
    if as_json:
        show_json(found)
    else:
        rows = [
            (
                *("ok" if check["balanced"] else "WRONG", check["check"], check["tenant"] or ""),
                *(check["expected"], "?" if check["found"] is None else check["found"]),
            )
            for check in found["checks"]
        ]
        click.echo(columns(("", "CHECK", "TENANT", "EXPECTED", "FOUND"), rows))
        click.echo("the books balance" if found["balanced"] else "the books do not balance", err=True)
    if not found["balanced"]:
        sys.exit(1)
