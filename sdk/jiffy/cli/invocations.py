"""`jiffy result` and `jiffy cancel`: asynchronous calls, by the id that `jiffy invoke --async` prints."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from jiffy.client import Client

from .invoke import await_end, failure
from .screen import counted, json_option, say, show_json, when


@click.command(short_help="Show what became of an asynchronous call.")
@click.argument("invocation")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@json_option
def result(invocation: str, wait: bool, as_json: bool) -> None:
    """Print the result of the asynchronous call INVOCATION; how it went goes to stderr.

    Exit code 1: it failed, or was cancelled. Exit code 3: it has not ended yet.

    \b
    Examples:
      jiffy result 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
      jiffy result --wait 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
    """
    with Client() as client:
        record = await_end(client, invocation) if wait else client.invocation(invocation)
    if as_json:
        show_json(record)
    else:
        _tell(record)
    if record["state"] in ("queued", "running"):
        sys.exit(3)
    if record.get("outcome") != "ok":
        sys.exit(1)


def _tell(record: dict[str, Any]) -> None:
    if "result" in record:
        click.echo(json.dumps(record["result"], indent=2, ensure_ascii=False))
    elif "error" in record:
        say(failure(record["error"]), err=True)
    how = [record["state"]]
    if record.get("reason"):
        how.append(f"({record['reason']})")
    if record.get("due_ms"):
        how.append(f"until {when(record['due_ms'])}")
    if record.get("behind"):
        how.append(f"behind {record['behind']}")
    click.echo(f"{' '.join(how)} after {counted(record['attempts'], 'attempt')}", err=True)
    if (untold := record.get("delivery")) and untold["error"]:
        text = f"{untold['target']} has not been told, after {untold['tried']} tries: {untold['error']}"
        say(f"{text}; next try {when(untold['due_ms'])}", err=True)


@click.command(short_help="Take back a queued call.")
@click.argument("invocation")
@json_option
def cancel(invocation: str, as_json: bool) -> None:
    """Take back the asynchronous call INVOCATION, which must not have begun.

    \b
    Example:
      jiffy cancel 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
    """
    with Client() as client:
        record = client.cancel(invocation)
    show_json(record) if as_json else click.echo(f"cancelled {invocation}")
