"""`jiffy drain`: have a host take no further calls, so that it can be stopped without anybody noticing."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from jiffy.client import Client
from jiffy.contract import limits

from .screen import json_option, show_json


@click.command(short_help="Have a host take no further calls.")
@click.argument("host", required=False)
@click.option("--undo", is_flag=True, help="Have it take calls again.")
@click.option("--wait", "wait_s", type=click.IntRange(0), default=60, show_default=True, help="Seconds to wait for it.")
@json_option
def drain(host: str | None, undo: bool, wait_s: int, as_json: bool) -> None:
    """Have a host take no further calls: running ones finish, waiting ones go to other hosts.

    HOST is an invoker or a host as `jiffy status` names it; it can be left out where there is only one. Without
    another host the calls that wait are still run here, and new ones are refused (503). It stays so, whatever is
    restarted, until --undo. Exit code 1: calls still ran when the time was over.

    \b
    Examples:
      jiffy drain inv-6a29140d
      jiffy drain inv-6a29140d --undo
    """
    with Client() as client:
        invoker = _named(client.status()["invokers"], host)
        client.drain(invoker, on=not undo)
        beat = _await(client, invoker, not undo, wait_s)
    busy = beat["running"] + beat["waiting"]
    done = beat["draining"] is not undo and (undo or not busy)
    if as_json:
        show_json({"invoker": invoker, **{name: beat[name] for name in ("draining", "running", "waiting")}})
    elif beat["draining"] is undo:
        click.echo(f"{invoker} was told, and has not answered yet; `jiffy status` shows when it does")
    elif undo:
        click.echo(f"{invoker} takes calls again")
    else:
        left = "nothing runs on it" if done else _left(beat)
        click.echo(f"{invoker} takes no further calls; {left}")
    if not done:
        sys.exit(1)


def _named(invokers: list[dict[str, Any]], host: str | None) -> str:
    names = [one["invoker"] for one in invokers if host in (None, one["invoker"], one["host"])]
    if len(names) == 1:
        return str(names[0])
    known = ", ".join(one["invoker"] for one in invokers) or "none is alive"
    if names and host:
        what = f"{len(names)} invokers run on the host {host!r}: say which"
    else:
        what = f"there is no host {host!r}" if host else "say which"
    raise click.UsageError(f"{what}; hosts: {known}")


def _left(beat: dict[str, Any]) -> str:
    run = "1 call runs" if beat["running"] == 1 else f"{beat['running']} calls run"
    return f"{run} and {beat['waiting']} wait{'s' * (beat['waiting'] == 1)} on it still"


def _await(client: Client, invoker: str, draining: bool, wait_s: int) -> dict[str, Any]:
    """What it says of itself when it has done as told, or when the time is over."""
    until = time.monotonic() + wait_s
    while True:
        beats = [one for one in client.status()["invokers"] if one["invoker"] == invoker]
        beat = beats[0] if beats else {"draining": True, "running": 0, "waiting": 0}  # it has left altogether
        quiet = not draining or not beat["running"] + beat["waiting"]
        if (beat["draining"] is draining and quiet) or time.monotonic() >= until:
            return beat
        time.sleep(limits.HEARTBEAT_S / 2)
