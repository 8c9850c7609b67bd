"""`jiffy invoke`: one call. The result goes to stdout, how it went to stderr."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from jiffy.client import Client, Invocation

from .screen import json_option, show_json

LOOK_FIRST_S, LOOK_MAX_S = 0.02, 1.0  # how often --wait asks


@click.command(short_help="Call a function and print its result.")
@click.argument("name")
@click.argument("data", default="{}")
@click.option("--async", "background", is_flag=True, help="Queue the call and print its id instead of waiting.")
@click.option("--wait", is_flag=True, help="With --async: wait for the result after all.")
@json_option
def invoke(name: str, data: str, background: bool, wait: bool, as_json: bool) -> None:
    """Call the function NAME with DATA, which is JSON, @FILE, or - for standard input.

    Exit code 1 says that the function failed.

    \b
    Examples:
      jiffy invoke hello '{"name": "Ada"}'
      jiffy invoke hello @event.json
      echo '{}' | jiffy invoke hello -
      jiffy invoke hello --async
    """
    if wait and not background:
        raise click.UsageError("--wait belongs to --async; without --async every call waits")
    event = read_event(data)
    with Client() as client:
        if not background:
            _tell(client.invoke(name, raw=event), as_json)
        elif not wait:
            invocation = client.invoke_async(name, raw=event)
            show_json({"invocation": invocation}) if as_json else click.echo(invocation)
        else:
            _tell(_await(client, name, client.invoke_async(name, raw=event)), as_json)


def read_event(data: str) -> bytes:
    """An event given on the command line: JSON, @FILE, or - for standard input. Raises UsageError."""
    try:
        if data == "-":
            raw = sys.stdin.buffer.read()
        elif data.startswith("@"):
            raw = Path(data[1:]).read_bytes()
        else:
            raw = data.encode()
        json.loads(raw)
    except OSError as exc:
        raise click.UsageError(f"can't read {data[1:]}: {exc.strerror}") from exc
    except (ValueError, UnicodeError) as exc:
        raise click.UsageError(f"DATA is not JSON: {exc}; a text is written '\"text\"'") from exc
    return raw


def _await(client: Client, name: str, invocation: str) -> Invocation:
    pause = LOOK_FIRST_S
    while (record := client.invocation(invocation))["state"] != "done":
        time.sleep(pause)
        pause = min(pause * 1.5, LOOK_MAX_S)
    return Invocation(
        id=invocation,
        function=name,
        outcome=record["outcome"],
        result=record.get("result") if record["outcome"] == "ok" else record.get("error"),
        duration_ms=float(record["duration_ms"]),
        billed_ms=int(record["billed_ms"]),
        cold=bool(record["cold"]),
        init_ms=float(record.get("init_ms") or 0),
        revision=int(record["revision"]),
    )


def _tell(call: Invocation, as_json: bool) -> None:
    if as_json:
        show_json(_document(call))
    else:
        if call.ok:
            click.echo(json.dumps(call.result, indent=2, ensure_ascii=False))
        else:
            click.echo(_failure(call), err=True)
        cold = f", cold start {call.init_ms:.1f} ms" if call.cold else ""
        click.echo(
            f"{call.outcome} in {call.duration_ms:.3f} ms, billed {call.billed_ms} ms{cold}  "
            f"(revision {call.revision}, invocation {call.id})",
            err=True,
        )
    if not call.ok:
        sys.exit(1)


def _document(call: Invocation) -> dict[str, Any]:
    return {
        "invocation": call.id,
        "function": call.function,
        "revision": call.revision,
        "outcome": call.outcome,
        "result" if call.ok else "error": call.result,
        "duration_ms": call.duration_ms,
        "billed_ms": call.billed_ms,
        "cold": call.cold,
        "init_ms": call.init_ms,
    }


def _failure(call: Invocation) -> str:
    error = call.result if isinstance(call.result, dict) else {"errorMessage": str(call.result)}
    stack = "".join(error.get("stackTrace") or [])
    return f"{stack.rstrip()}\n{error.get('errorType', 'Error')}: {error.get('errorMessage', '')}".strip()
