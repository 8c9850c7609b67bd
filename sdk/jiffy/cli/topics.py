"""`jiffy topics`: publish events, see what topics hold. Who gets them: triggers of type "topic", docs/events.md."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import click

from jiffy.client import Client

from .invoke import read_event
from .screen import columns, json_option, show_json

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group(short_help="Publish events, and see what topics hold.")
def topics() -> None:
    """Publish events to topics, and see what topics hold.

    A function gets a topic's events by a trigger of type "topic" in its jiffy.toml.

    \b
    Examples:
      jiffy topics publish orders --type order.paid '{"amount": 120}'
      jiffy topics list
      jiffy topics events orders
      jiffy topics replay audit/orders --since 1h
    """


@topics.command("list", short_help="List all topics.")
@json_option
def list_topics(as_json: bool) -> None:
    """List all topics, with how many events each keeps and who reads it."""
    with Client() as client:
        found = [client.get_json(f"/v1/topics/{one['topic']}") for one in client.get_json("/v1/topics")["topics"]]
    if as_json:
        show_json({"topics": found})
    elif not found:
        click.echo("there is no topic yet; `jiffy topics publish` makes one", err=True)
    else:
        rows = [(one["topic"], one["events"], one["last"] or "", ", ".join(one["subscriptions"])) for one in found]
        click.echo(columns(("TOPIC", "EVENTS", "LAST", "SUBSCRIPTIONS"), rows))


@topics.command(short_help="Publish an event.")
@click.argument("topic")
@click.argument("data", default="null")
@click.option("--type", "kind", required=True, help='What happened, such as "order.paid".')
@click.option("--source", default="/jiffy/cli", show_default=True, help="Where it happened.")
@click.option("--subject", default="", help="What it happened to.")
@json_option
def publish(topic: str, data: str, kind: str, source: str, subject: str, as_json: bool) -> None:
    """Publish an event with DATA (JSON, @FILE, or - for standard input) to TOPIC."""
    event: dict[str, Any] = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": source, "type": kind}
    event |= {"subject": subject} if subject else {}
    event |= {"datacontenttype": "application/json", "data": json.loads(read_event(data))}
    with Client() as client:
        done = client.post_json(
            f"/v1/topics/{topic}/events", json.dumps(event).encode(), "application/cloudevents+json"
        )
    show_json(done) if as_json else click.echo(f"published {event['id']} to {topic}")


@topics.command(short_help="Show the events that a topic keeps.")
@click.argument("topic")
@click.option("--since", default="1h", show_default=True, help="A time, or a time ago such as 30m, 1h, 2d.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@json_option
def events(topic: str, since: str, limit: int, as_json: bool) -> None:
    """Show the events that TOPIC keeps, oldest first."""
    with Client() as client:
        found = client.get_json(f"/v1/topics/{topic}/events", {"since": moment(since), "limit": limit})["events"]
    if as_json:
        show_json({"events": found})
    elif not found:
        click.echo(f"{topic} keeps no event since {since}", err=True)
    else:
        rows = [(e["event"]["time"], e["event"]["type"], e["event"]["id"], _short(e["event"])) for e in found]
        click.echo(columns(("TIME", "TYPE", "ID", "DATA"), rows))


@topics.command(short_help="Let a trigger read its topic again.")
@click.argument("trigger", metavar="FUNCTION/TRIGGER")
@click.option("--since", required=True, help="A time, or a time ago such as 30m, 1h, 2d.")
@json_option
def replay(trigger: str, since: str, as_json: bool) -> None:
    """Call a topic trigger's function again with all events since a time, as far as the topic keeps them."""
    function, _, name = trigger.partition("/")
    with Client() as client:
        content = json.dumps({"since": moment(since)}).encode()
        done = client.post_json(f"/v1/triggers/{function}/{name or 'topic'}/replay", content)
    show_json(done) if as_json else click.echo(f"reading {', '.join(done['topics'])} again since {done['since']}")


def moment(text: str) -> str:
    """A time, or a time ago, as ISO 8601 in UTC."""
    if text[:-1].isdigit() and text[-1:] in _UNITS:
        ago = time.time() - int(text[:-1]) * _UNITS[text[-1]]
        return datetime.fromtimestamp(ago, UTC).isoformat().replace("+00:00", "Z")
    return text


def _short(event: dict[str, Any]) -> str:
    text = json.dumps(event.get("data", "…"), ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
