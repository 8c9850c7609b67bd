"""`jiffy prices`: the price books of the platform: list them, show one, publish more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jiffy.client import Client
from jiffy.costs import Costs

from .screen import columns, json_option, show_json, shown


@click.group(short_help="Show and publish what calls cost.")
def prices() -> None:
    """Show and publish price books: what a GB-second and a call cost, from when on, and for whom.

    \b
    Examples:
      jiffy prices list
      jiffy prices show
      jiffy prices set prices.toml
    """


@prices.command("list")
@json_option
def list_books(as_json: bool) -> None:
    """List all price books."""
    with Client() as client:
        document = Costs(client).price_books()
    if as_json:
        show_json(document)
        return
    heads = ("book", "effective_from", "GB-second", "call", "GB-second kept ready", "step", "free a month", "name")
    rows = [_line(book, book["version"] == document["in_force"]) for book in document["books"]]
    click.echo(columns(heads, rows))
    click.echo(f"\nAmounts are in {document['currency']}; * is in force.")
    click.echo(
        "A book published after its effective_from holds from its publication on: calls before keep their prices."
    )


@prices.command()
@click.argument("version", type=click.IntRange(1), required=False)
@json_option
def show(version: int | None, as_json: bool) -> None:
    """Show one price book: the one in force, or VERSION."""
    with Client() as client:
        document = Costs(client).price_books()
        wanted = document["in_force"] if version is None else version
        book = next((one for one in document["books"] if one["version"] == wanted), None)
        if book is None:
            book = Costs(client).price_book(wanted)  # says that there is none
    if as_json:
        show_json(book)
        return
    for key, value in book.items():
        for name, text in _flat(key, value):
            click.echo(f"{name:<40}{text}")


@prices.command("set")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def publish(file: Path, as_json: bool) -> None:
    """Publish the price books in a TOML file.

    Books that are published already must stand in it unchanged, or not at all: what a call was priced by is never
    edited. A new book holds from its effective_from on, at the earliest a second from now, for calls from then on.
    """
    with Client() as client:
        before = {book["version"] for book in Costs(client).price_books()["books"]}
        document = Costs(client).publish(file.read_bytes())
    if as_json:
        show_json(document)
        return
    new = [book for book in document["books"] if book["version"] not in before]
    for book in new:
        click.echo(f"price book {book['version']} is published; {_from_when(book, document)}")
    if not new:
        click.echo("nothing new: all of these price books are published")
    click.echo(f"in force: price book {document['in_force']}")


def _from_when(book: dict[str, Any], document: dict[str, Any]) -> str:
    """From what moment on a new book is really in force: calls of the past keep their prices."""
    begins = book["effective_from"]
    if begins > document["now"]:
        return f"it will be in force for calls from {begins} on"
    if book["version"] == document["in_force"]:
        return f"it is in force from now on ({document['now'][:19]}Z): calls before keep their prices"
    return f"it begins {begins}, before price book {document['in_force']}, so no call will be priced by it"


def _line(book: dict[str, Any], in_force: bool) -> tuple[object, ...]:
    free = [f"{book[key]} {unit}" for key, unit in _FREE if book.get(key)]
    return (
        f"{book['version']}{' *' if in_force else ''}",
        book["effective_from"][:10],
        book["per_gb_second"],
        book["per_call"],
        book.get("per_provisioned_gb_second", "0"),
        f"{book['step_ms']} ms",
        ", ".join(free),
        book.get("name", ""),
    )


_FREE = (("free_gb_seconds", "GB-s"), ("free_calls", "calls"))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Nested tables as dotted names."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]
    if isinstance(value, list):
        return [pair for n, inner in enumerate(value, 1) for pair in _flat(f"{name}.{n}", inner)]
    return [(name, shown(value))]
