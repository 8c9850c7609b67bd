"""`jiffy invoke`: one call. The result goes to stdout, how it went to stderr."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from jiffy.client import Client
from jiffy.contract import samples
from jiffy.contract.errors import JiffyError
from jiffy.invocation import Invocation

from .screen import json_option, say, show_json

LOOK_FIRST_S, LOOK_MAX_S = 0.02, 1.0  # how often --wait asks


@click.command(short_help="Call a function and print its result.")
@click.argument("name")
@click.argument("data", default="{}")
@click.option("--async", "background", is_flag=True, help="Queue the call and print its id instead of waiting.")
@click.option("--wait", is_flag=True, help="With --async: wait for the result after all.")
@click.option("--key", metavar="KEY", help="Idempotency key: calls with the same one within a day are run once.")
@click.option("--delay", "delay_s", type=float, metavar="S", help="With --async: begin after so many seconds.")
@click.option("--retries", type=int, metavar="N", help="With --async: in place of the function's own.")
@click.option("--max-age", "max_age_s", type=float, metavar="S", help="With --async: in place of its max_age_s.")
@click.option("--order-key", metavar="KEY", help="With --async: calls with the same one run one at a time, in order.")
@click.option("--event", "kind", type=click.Choice(sorted(samples.KINDS)), help="Put DATA into a sample of this event.")
@json_option
def invoke(
    name: str,
    data: str,
    background: bool,
    wait: bool,
    key: str | None,
    delay_s: float | None,
    retries: int | None,
    max_age_s: float | None,
    order_key: str | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Call the function NAME with DATA, which is JSON, @FILE, or - for standard input.

    What a function with stream = true yields is printed as it comes; with --json or --key it is one result.

    Exit code 1 says that the function failed.

    \b
    Examples:
      jiffy invoke hello '{"name": "Ada"}'
      jiffy invoke hello @event.json
      echo '{}' | jiffy invoke hello -
      jiffy invoke hello --async --delay 60
      jiffy invoke thumbs --event s3 '{"key": "cat.png"}'
    """
    if wait and not background:
        raise click.UsageError("--wait belongs to --async; without --async every call waits")
    if not background and (delay_s, retries, max_age_s, order_key) != (None, None, None, None):
        raise click.UsageError("--delay, --retries, --max-age and --order-key belong to --async")
    event = read_event(data)
    if kind:
        event = samples.sample(kind, name, json.loads(event), int(time.time() * 1000))
    with Client() as client:
        if not (background or as_json or key):
            _show(client, name, event)
            return
        if not background:
            _tell(client, client.invoke(name, raw=event, idempotency_key=key), as_json)
            return
        invocation = client.invoke_async(
            name,
            raw=event,
            delay_s=delay_s,
            retries=retries,
            max_age_s=max_age_s,
            order_key=order_key,
            idempotency_key=key,
        )
        if wait:
            _tell(client, _ended(name, await_end(client, invocation)), as_json)
        else:
            show_json({"invocation": invocation}) if as_json else click.echo(invocation)


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


def await_end(client: Client, invocation: str) -> dict[str, Any]:
    """The record of an asynchronous call, once it has ended."""
    pause = LOOK_FIRST_S
    while (record := client.invocation(invocation))["state"] in ("queued", "running"):
        time.sleep(pause)
        pause = min(pause * 1.5, LOOK_MAX_S)
    return record


def _ended(name: str, record: dict[str, Any]) -> Invocation:
    outcome = record.get("outcome", record["state"])  # a cancelled one has no outcome
    return Invocation(
        id=record["invocation"],
        function=name,
        outcome=outcome,
        result=record.get("result") if outcome == "ok" else record.get("error", {"errorMessage": record["state"]}),
        duration_ms=float(record.get("duration_ms") or 0),
        billed_ms=int(record.get("billed_ms") or 0),
        cold=bool(record.get("cold")),
        init_ms=float(record.get("init_ms") or 0),
        revision=int(record["revision"]),
    )


def _show(client: Client, name: str, event: bytes) -> None:
    """Pieces as they come, and how it went."""
    out, last = sys.stdout.buffer, b"\n"
    with client.invoke_stream(name, raw=event) as answer:
        pieces = False
        for piece in answer:
            out.write(piece)
            out.flush()
            pieces, last = True, piece
    if out.isatty() and not last.endswith(b"\n"):
        click.echo()
    assert answer.ended is not None
    _tell(client, answer.ended, streamed=pieces)


def _tell(client: Client, call: Invocation, as_json: bool = False, streamed: bool = False) -> None:
    if as_json:
        show_json(_document(call))
    else:
        if call.ok and not streamed:
            show_json(call.result)
        elif not call.ok:
            say("\n".join([failure(call.result), *_hints(client, call)]), err=True)
        cold = f", cold start {call.init_ms:.1f} ms" if call.cold else ""
        click.echo(
            f"{call.outcome} in {call.duration_ms:.3f} ms, billed {call.billed_ms} ms{cold}  "
            f"(revision {call.revision}, invocation {call.id}{', replayed: it ran before' if call.replayed else ''})",
            err=True,
        )
    if not call.ok:
        sys.exit(1)


def _hints(client: Client, call: Invocation) -> list[str]:
    """What the platform wrote into the call's log on how to mend it; nothing for who may not read logs."""
    if call.outcome != "error":
        return []  # the others say it themselves
    try:
        lines = client.logs(call.function.partition(":")[0], invocation=call.id)
        return [line for line in lines if line.startswith("[HINT] ")]
    except JiffyError:
        return []


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
        "replayed": call.replayed,
    }


def failure(result: Any) -> str:
    """A function's error for people: its stack trace, its type, its message."""
    error = result if isinstance(result, dict) else {"errorMessage": str(result)}
    python, node = error.get("stackTrace"), error.get("trace")  # the latter begins with type and message
    lines = python if isinstance(python, list) else [f"{line}\n" for line in node[1:]] if isinstance(node, list) else []
    stack = "".join(map(str, lines)).rstrip()
    head = "Traceback (most recent call last):\n" if isinstance(python, list) and stack else ""
    return f"{head}{stack}\n{error.get('errorType', 'Error')}: {error.get('errorMessage', '')}".strip("\n")
