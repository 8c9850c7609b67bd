"""`jiffy quota`: say how many calls may come a second, and run at the same time. See docs/budgets.md."""

from __future__ import annotations

from typing import Any

import click

from jiffy.budgets import Quotas
from jiffy.client import Client

from .screen import columns, json_option, show_json
from .warnings import warn_of_names


@click.group(short_help="Say how many calls may come.")
def quota() -> None:
    """Say how many calls may come a second, and run at the same time; more are answered with 429.

    \b
    Examples:
      jiffy quota set everything --rate 500 --concurrency 200
      jiffy quota set resize --rate 10 --burst 50 --function thumbnail
      jiffy quota set shop --concurrency 20 --tag team=shop
      jiffy quota list
    """


@quota.command("set", short_help="Set a quota, or change one.")
@click.argument("name")
@click.option("--rate", type=click.FloatRange(0.001, 1e6), help="Calls a second.")
@click.option("--burst", type=click.IntRange(1), help="Calls that may come at once (default: those of a second).")
@click.option("--concurrency", type=click.IntRange(1), help="Calls that run or wait at the same time, on all hosts.")
@click.option("--function", metavar="NAME", help="Only for this function.")
@click.option("--tag", metavar="NAME=VALUE", help="Only for functions with this tag.")
@json_option
def set_quota(
    name: str,
    rate: float | None,
    burst: int | None,
    concurrency: int | None,
    function: str | None,
    tag: str | None,
    as_json: bool,
) -> None:
    """Set how many calls may come, under NAME; one of this name is replaced. It is in force when this returns."""
    given = {"rate": rate, "burst": burst, "concurrency": concurrency, "function": function, "tag": tag}
    with Client() as client:
        found = Quotas(client).set(name, **{key: value for key, value in given.items() if value is not None})
        warn_of_names(client, [function] if function else [], f"the quota {name}")
    show_json(found) if as_json else click.echo(_table([found]))


@quota.command("list", short_help="List all quotas.")
@json_option
def list_quotas(as_json: bool) -> None:
    """List all quotas, with how many calls run under each."""
    with Client() as client:
        found = Quotas(client).all()
    if as_json:
        show_json({"quotas": found})
    elif not found:
        click.echo("there is no quota yet; `jiffy quota set` makes one", err=True)
    else:
        click.echo(_table(found))


@quota.command(short_help="Show one quota.")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one quota, and how many calls run under it."""
    with Client() as client:
        found = Quotas(client).show(name)
    show_json(found) if as_json else click.echo(_table([found]))


@quota.command(short_help="Remove a quota.")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a quota."""
    with Client() as client:
        Quotas(client).remove(name)
    show_json({"removed": name}) if as_json else click.echo(f"removed {name}")


def _table(quotas: list[dict[str, Any]]) -> str:
    return columns(("QUOTA", "FOR", "CALLS A SECOND", "AT ONCE", "CONCURRENCY", "RUNNING"), [_line(q) for q in quotas])


def _line(one: dict[str, Any]) -> tuple[object, ...]:
    scope = f"tag {one['tag']}" if "tag" in one else one.get("function", "all functions")
    rate = f"{one['rate']:g}" if "rate" in one else ""
    return one["name"], scope, rate, one.get("burst", ""), one.get("concurrency", ""), one.get("running", "")
