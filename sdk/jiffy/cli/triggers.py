"""`jiffy triggers`: what calls functions besides requests, and how it is doing. Declaring them: docs/events.md."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click

from jiffy.client import Client

from .invoke import read_event
from .screen import columns, json_option, show_json, when


@click.group(short_help="What calls functions besides requests.")
def triggers() -> None:
    """See, pause, fire what calls your functions besides requests.

    A trigger is declared in jiffy.toml and is in service within a second of `jiffy deploy`. It is named
    FUNCTION/TRIGGER here; FUNCTION alone will do where a function has one trigger.

    \b
    Examples:
      jiffy triggers list
      jiffy triggers pause report/nightly
      jiffy triggers fire report
      jiffy triggers logs report
    """


def _split(_: click.Context, __: click.Parameter, value: str) -> tuple[str, str]:
    function, _slash, name = value.partition("/")
    return function, name


which = click.argument("trigger", metavar="FUNCTION[/TRIGGER]", callback=_split)


@triggers.command("list", short_help="List all triggers.")
@json_option
def list_triggers(as_json: bool) -> None:
    """List all triggers, with what they did and when they are due."""
    with Client() as client:
        found = client.triggers()
    if as_json:
        show_json({"triggers": found})
    elif not found:
        click.echo("no function declares a trigger; docs/events.md shows how", err=True)
    else:
        heads = ("TRIGGER", "TYPE", "FROM", "STATE", "FIRED", "FAILED", "WAITING", "LAST", "NEXT")
        click.echo(columns(heads, [_row(one) for one in found]))


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        *(f"{one['function']}/{one['name']}", one["type"], source(one), one["state"], one["fired"], one["failed"]),
        *(one.get("waiting", ""), _utc(one["last"]), _utc(one.get("next"))),
    )


def source(one: dict[str, Any]) -> str:
    """What a trigger listens to, in a few words."""
    options = one["options"]
    if one["type"] == "schedule":
        zone = "" if options["timezone"] == "UTC" or options["rate"] else f" {options['timezone']}"
        at = f"at({options['at']})" if options["at"] else ""
        return f"{options['cron'] or options['rate'] or at}{zone}"
    if one["type"] == "webhook":
        return f"{options['scheme']} /v1/hooks/{one['function']}/{one['name']}"
    return str(options.get("source") or options.get("topic") or "")


@triggers.command(short_help="Show one trigger.")
@which
@json_option
def show(trigger: tuple[str, str], as_json: bool) -> None:
    """Show a trigger's settings, state and counters."""
    with Client() as client:
        one = client.trigger(*_resolve(client, trigger))
    _show(one, as_json)


def _show(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(one)
        return
    facts = [(key, one[key]) for key in one if key not in ("function", "name", "options", "last", "next")]
    facts += [("last", _utc(one["last"])), ("next", _utc(one.get("next")))]
    facts += [(key, value) for key, value in one["options"].items() if value not in ("", {}, [], None)]
    click.echo(columns(("TRIGGER", f"{one['function']}/{one['name']}"), facts))


@triggers.command(short_help="Stop calling the function.")
@which
@json_option
def pause(trigger: tuple[str, str], as_json: bool) -> None:
    """Stop a trigger from calling its function until `resume`; deploys don't change that."""
    _act(trigger, "pause", "paused", as_json)


@triggers.command(short_help="Go on after a pause.")
@which
@json_option
def resume(trigger: tuple[str, str], as_json: bool) -> None:
    """Let a paused trigger go on, from now: a schedule's ticks of the pause are left out."""
    _act(trigger, "resume", "resumed", as_json)


def _act(trigger: tuple[str, str], action: str, done: str, as_json: bool) -> None:
    with Client() as client:
        one = client.trigger(*_resolve(client, trigger), action)
    show_json(one) if as_json else click.echo(f"{done} {one['function']}/{one['name']}")


@triggers.command(short_help="Call the function now, as the trigger would.")
@which
@click.argument("data", default="")
@json_option
def fire(trigger: tuple[str, str], data: str, as_json: bool) -> None:
    """Call a trigger's function now and print the invocation's id, paused or not.

    DATA is the event: JSON, @FILE, or - for standard input. A schedule makes its own.
    """
    event = read_event(data) if data else b""
    with Client() as client:
        invocation = client.fire(*_resolve(client, trigger), event)
    show_json({"invocation": invocation}) if as_json else click.echo(invocation)


@triggers.command(short_help="Show what a trigger did.")
@which
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many entries.")
@json_option
def logs(trigger: tuple[str, str], limit: int, as_json: bool) -> None:
    """Show what a trigger did last, oldest first. `jiffy logs` shows what its function printed."""
    with Client() as client:
        entries = client.trigger_log(*_resolve(client, trigger), limit)
    if as_json:
        show_json({"entries": entries})
    elif entries:
        rows = [(when(e["at_ms"]), e["kind"], e["invocation"], e["text"]) for e in entries]
        click.echo(columns(("TIME", "WHAT", "INVOCATION", ""), rows))
    else:
        click.echo("it has not done anything yet", err=True)


def _resolve(client: Client, trigger: tuple[str, str]) -> tuple[str, str]:
    function, name = trigger
    if name:
        return trigger
    names = [one["name"] for one in client.triggers() if one["function"] == function]
    if len(names) == 1:
        return function, names[0]
    spec = client.function(function)["spec"]  # says that it is not there
    if not names and spec.get("triggers"):
        click.echo(f"jiffy: {function} has http triggers only, and those are routes: jiffy show {function}", err=True)
    elif not names:
        click.echo(f"jiffy: {function} declares no trigger; docs/events.md shows how", err=True)
    else:
        choices = ", ".join(f"{function}/{name}" for name in names)
        click.echo(f"jiffy: {function} has {len(names)} triggers: name one of {choices}", err=True)
    sys.exit(1)


def _utc(text: str | None) -> str:
    if not text:
        return ""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
