"""`jiffy status`: which parts are alive, what they hold warm, and what is waiting."""

from __future__ import annotations

import sys
from typing import Any

import click

from jiffy.client import Client

from .screen import columns, json_option, show_json, size

INVOKER = ("INVOKER", "HOST", "SANDBOX", "RUNNING", "WAITING", "STEMS", "FREE MEMORY")
BUILDER = ("BUILDER", "HOST", "BUILDING", "RUNTIMES")
FUNCTION = ("FUNCTION", "REVISION", "IDLE", "RUNNING", "FROZEN", "WAITING", "MEMORY", "CALLS", "COLD")


@click.command(short_help="Show how the platform is doing.")
@json_option
def status(as_json: bool) -> None:
    """Show which parts of the platform are alive, and what runs, waits and stays warm. Exit code 1: a part is missing.

    \b
    Example:
      jiffy status
    """
    with Client() as client:
        platform = client.status()
    if as_json:
        show_json(platform)
    else:
        _tell(client.url, platform)
    if not platform["healthy"]:
        sys.exit(1)


def _tell(url: str, platform: dict[str, Any]) -> None:
    missing = ", ".join(platform["missing"])
    health = f"not healthy: no {missing} is alive" if missing else "healthy"
    click.echo(f"{url}  jiffy {platform['version']}  {health}  {platform['functions']} functions\n")
    click.echo(columns(INVOKER, [_invoker(one) for one in platform["invokers"]]) + "\n")
    click.echo(columns(BUILDER, [_builder(one) for one in platform["builders"]]))
    functions = [_function(one) for invoker in platform["invokers"] for one in invoker["functions"]]
    if functions:
        click.echo("\n" + columns(FUNCTION, functions))


def _builder(one: dict[str, Any]) -> tuple[object, ...]:
    return (one["builder"], one["host"], one["building"], ", ".join(one["runtimes"]))


def _invoker(one: dict[str, Any]) -> tuple[object, ...]:
    stems = ", ".join(f"{count} {runtime}" for runtime, count in sorted(one["stems"].items()))
    state = " (ending)" if one["draining"] else ""
    return (
        *(one["invoker"] + state, one["host"], one["driver"], one["running"], one["waiting"]),
        *(stems, f"{one['memory_free_mb']} MB"),
    )


def _function(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        *(one["function"], one["revision"], one["idle"], one["running"], one["frozen"], one["waiting"]),
        *(size(one["memory_bytes"]), one["calls"], one["cold_calls"]),
    )
