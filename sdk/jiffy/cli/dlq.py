"""`jiffy dlq`: the dead-letter queue, where asynchronous calls go that failed for good."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from jiffy.client import Client

from .screen import columns, json_option, show_json, size, when

WAYS = "Give one INVOCATION, --function NAME, or --all"


@click.group(short_help="Look at calls that failed for good; replay or purge them.")
def dlq() -> None:
    """The dead-letter queue: asynchronous calls that failed for good.

    A call gets here when its function failed once more than `retries` in jiffy.toml allows, or when it grew older than
    `max_age_s`. Letters are kept for 14 days.

    \b
    Examples:
      jiffy dlq list
      jiffy dlq show 0193…
      jiffy dlq replay --function hello
      jiffy dlq purge --all
    """


@dlq.command("list", short_help="List dead letters, newest first.")
@click.option("--function", metavar="NAME", help="Only this function's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@json_option
def list_letters(function: str | None, limit: int, as_json: bool) -> None:
    """List dead letters, newest first.

    \b
    Example:
      jiffy dlq list --function hello
    """
    with Client() as client:
        page = client.get_json("/v1/dlq", {"function": function, "limit": limit})
    if as_json:
        show_json(page)
        return
    letters: list[dict[str, Any]] = page["letters"]
    if not letters:
        click.echo("no dead letters: no asynchronous call has failed for good", err=True)
        return
    heads = ("DIED", "FUNCTION", "INVOCATION", "ATTEMPTS", "REASON", "SIZE", "LAST ERROR")
    click.echo(columns(heads, [_row(letter) for letter in letters]))
    if page["next"]:
        click.echo(f"there are more than {limit}; --limit shows more", err=True)


def _row(letter: dict[str, Any]) -> tuple[object, ...]:
    error = " ".join(str(letter["error_message"]).split())
    return (
        *(when(letter["dead_ms"]), letter["function"], letter["invocation"], letter["attempts"], letter["reason"]),
        *(size(letter["payload_bytes"]), error if len(error) <= 60 else error[:59] + "…"),
    )


@dlq.command(short_help="Show one dead letter, with its payload and its last error.")
@click.argument("invocation")
@json_option
def show(invocation: str, as_json: bool) -> None:
    """Show the dead letter INVOCATION: why it died, its last error and its payload.

    \b
    Example:
      jiffy dlq show 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
    """
    with Client() as client:
        letter = client.get_json(f"/v1/dlq/{invocation}")
    if as_json:
        show_json(letter)
        return
    facts = [
        *(("function", letter["function"]), ("revision", letter["revision"]), ("trigger", letter["trigger"])),
        *(("reason", letter["reason"]), ("attempts", letter["attempts"]), ("outcome", letter["outcome"])),
        *(("accepted", when(letter["accepted_ms"])), ("died", when(letter["dead_ms"]))),
    ]
    click.echo(columns(("INVOCATION", letter["invocation"]), facts))
    for head, content in (("LAST ERROR", letter["error"]), ("PAYLOAD", letter["payload"])):
        click.echo(f"\n{click.style(head, bold=True)}\n{json.dumps(content, indent=2, ensure_ascii=False)}")


@dlq.command(short_help="Try dead calls again.")
@click.argument("invocation", required=False)
@click.option("--function", metavar="NAME", help="All of this function's.")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@json_option
def replay(invocation: str | None, function: str | None, everything: bool, as_json: bool) -> None:
    """Try dead calls again, with the revision that is live now. Their ids stay the same, their retries begin anew.

    \b
    Examples:
      jiffy dlq replay 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
      jiffy dlq replay --function hello
    """
    _one_way(invocation, function, everything)
    with Client() as client:
        done = client.replay(invocation, function)
    show_json({"replayed": done}) if as_json else click.echo(f"replayed {done}")


@dlq.command(short_help="Throw dead letters away.")
@click.argument("invocation", required=False)
@click.option("--function", metavar="NAME", help="All of this function's.")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@json_option
def purge(invocation: str | None, function: str | None, everything: bool, yes: bool, as_json: bool) -> None:
    """Throw dead letters away, payloads included.

    \b
    Examples:
      jiffy dlq purge 0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10
      jiffy dlq purge --all --yes
    """
    _one_way(invocation, function, everything)
    if not yes and not invocation:
        what = f"all dead letters of {function}" if function else "all dead letters"
        click.confirm(f"Throw away {what}?", abort=True, err=True)
    with Client() as client:
        done = client.purge(invocation, function)
    show_json({"purged": done}) if as_json else click.echo(f"purged {done}")


def _one_way(invocation: str | None, function: str | None, everything: bool) -> None:
    if bool(invocation) + bool(function) + everything != 1:
        click.echo(f"jiffy: {WAYS}", err=True)
        sys.exit(2)
