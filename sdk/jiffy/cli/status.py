"""`jiffy status`: which parts of the platform are alive, and what is warm, running and waiting."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import click
from rich.live import Live
from rich.text import Text

from jiffy.budgets import Budgets, sentence
from jiffy.client import Client
from jiffy.contract import limits

from .screen import columns, counted, json_option, show_json, size

INVOKER = ("INVOKER", "HOST", "SANDBOX", "INSTANCES", "RUNNING", "WAITING", "STEMS", "FREE MEMORY")
BUILDER = ("BUILDER", "HOST", "BUILDING", "RUNTIMES")
FUNCTION = (
    "FUNCTION",
    "REVISION",
    "INVOKER",
    "IDLE",
    "RUNNING",
    "FROZEN",
    "WAITING",
    "MEMORY",
    "CALLS",
    "COLD",
    "WAIT",
)
LOOK_S = 2 * limits.HEARTBEAT_S  # more often there is hardly news


@click.command(short_help="Show how the platform is doing.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@json_option
def status(watch: bool, as_json: bool) -> None:
    """Show which parts of the platform are alive, and what runs, waits and stays warm. Exit code 1: a part is missing.

    COLD is the share of calls that waited for their function's first sandbox on that host; WAIT is how long a call
    waited for an instance, on average. STEMS says how many are ready, of how many there should be.

    \b
    Examples:
      jiffy status
      jiffy status --watch
      jiffy status --watch --json      one document a line
    """
    with Client() as client:
        if watch:
            _watch(client, as_json)
            return
        platform = client.status()
        pressing = [] if as_json else Budgets(client).pressing()
    if as_json:
        show_json(platform)
    else:
        click.echo("\n".join([_text(client.url, platform), *map(sentence, pressing)]))
    if not platform["healthy"]:
        sys.exit(1)


def _watch(client: Client, as_json: bool) -> None:
    """Until Ctrl-C: a screen that changes on a terminal, one text or document after the other elsewhere."""
    with contextlib.suppress(KeyboardInterrupt):
        if as_json or not sys.stdout.isatty():
            while True:
                platform = client.status()
                click.echo(json.dumps(platform) if as_json else _text(client.url, platform) + "\n")
                time.sleep(LOOK_S)
        with Live(auto_refresh=False, screen=True) as live:
            while True:
                live.update(Text.from_ansi(_text(client.url, client.status())), refresh=True)
                time.sleep(LOOK_S)


def _text(url: str, platform: dict[str, Any]) -> str:
    health = _health(platform)
    parts = [
        f"{url}  jiffy {platform['version']}  {health}  {counted(platform['functions'], 'function')}",
        columns(INVOKER, [_invoker(one) for one in platform["invokers"]]),
        columns(BUILDER, [_builder(one) for one in platform["builders"]]),
    ]
    rows = [_function(invoker["invoker"], one) for invoker in platform["invokers"] for one in invoker["functions"]]
    parts.append(columns(FUNCTION, sorted(rows)))
    return "\n\n".join(filter(None, parts))


def _health(platform: dict[str, Any]) -> str:
    missing, invokers = platform["missing"], platform["invokers"]
    drains = "invoker" in missing and bool(invokers)  # alive, and none takes calls
    dead = ", ".join(what for what in missing if not (drains and what == "invoker"))
    wrong = [*([f"no {dead} is alive"] if dead else [])]
    if drains:
        wrong.append(f"all invokers are draining (jiffy drain {invokers[0]['invoker']} --undo)")
    return f"not healthy: {'; '.join(wrong)}" if wrong else "healthy"


def _builder(one: dict[str, Any]) -> tuple[object, ...]:
    return (one["builder"], one["host"], one["building"], ", ".join(one["runtimes"]))


def _invoker(one: dict[str, Any]) -> tuple[object, ...]:
    wanted = one["stems_wanted"]
    stems = ", ".join(f"{one['stems'].get(name, 0)}/{wanted.get(name, 0)} {name}" for name in sorted(wanted))
    state = " (draining)" if one["draining"] else ""
    return (
        *(one["invoker"] + state, one["host"], one["driver"], f"{one['instances']}/{one['instances_max']}"),
        *(one["running"], one["waiting"], stems, f"{one['memory_free_mb']} MB"),
    )


def _function(invoker: str, one: dict[str, Any]) -> tuple[Any, ...]:
    calls = one["calls"]
    return (
        *(one["function"], one["revision"], invoker, one["idle"], one["running"], one["frozen"], one["waiting"]),
        *(size(one["memory_bytes"]), calls),
        *((f"{one['cold_calls'] / calls:.1%}", f"{one['waited_us'] / calls / 1000:.2f} ms") if calls else ("", "")),
    )
