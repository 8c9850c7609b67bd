"""`jiffy cost estimate`: what a month of calls will cost, before there is one."""

from __future__ import annotations

from typing import Any

import click

from jiffy.client import Client
from jiffy.contract.errors import InvalidRequest
from jiffy.costs import Costs

from .screen import columns, json_option, show_json


@click.group(short_help="Estimate what calls will cost.")
def cost() -> None:
    """Estimate what calls will cost.

    \b
    Example:
      jiffy cost estimate --calls 2e6 --duration-ms 120 --memory-mb 128
    """


@cost.command()
@click.option("--calls", required=True, metavar="N", help="Calls a month, such as 2e6.")
@click.option("--duration-ms", required=True, metavar="MS", help="How long one takes.")
@click.option("--memory-mb", required=True, metavar="MB", help="Memory that the function declares.")
@click.option("--runtime", metavar="NAME", help="Such as python3.11 (default: that of jiffy.toml).")
@click.option("--cold-share", metavar="SHARE", help="Calls that begin cold, 0 to 1.")
@click.option("--init-ms", metavar="MS", help="How long a cold start takes.")
@click.option(
    "--compare", metavar="BOOK", default="aws-lambda", show_default=True, help="Another price book; none: ''."
)
@json_option
def estimate(compare: str, as_json: bool, **load: str | None) -> None:
    """Estimate what a month of equal calls costs, by the price book in force.

    \b
    Example:
      jiffy cost estimate --calls 2e6 --duration-ms 120 --memory-mb 128
    """
    try:
        with Client() as client:
            document = Costs(client).estimate({**load, "compare": compare or None})
    except InvalidRequest as exc:
        raise click.UsageError(exc.message) from exc
    if as_json:
        show_json(document)
        return
    heads = ("", *(f"{_name(key)}, {one['currency']}" for key, one in document.items()))
    click.echo(columns(heads, [(label, *(_cell(one, key) for one in document.values())) for label, key in _ROWS]))
    if not load["runtime"]:
        click.echo(f"\nPriced as {document['estimate']['runtime']}, the default runtime; --runtime names another.")


_ROWS = (
    ("billed time of a call, ms", "billed_ms"),
    ("GB-seconds", "gb_seconds"),
    ("list price", "list_price"),
    ("free tier", "free"),
    ("volume tiers", "volume"),
    ("a month", "total"),
)


def _name(key: str) -> str:
    return "here" if key == "estimate" else key


def _cell(one: dict[str, Any], key: str) -> str:
    value = str(one[key])
    return f"-{value}" if key in ("free", "volume") and value != "0" else value
