"""`jiffy budget`: say what may be spent, and see what is. What a budget does: docs/budgets.md."""

from __future__ import annotations

from typing import Any

import click

from jiffy.budgets import Budgets
from jiffy.client import Client

from .screen import columns, json_option, short, show_json, shown
from .warnings import FUNCTION, warn_of_names


@click.group(short_help="Say what calls may cost, and see what is spent.")
def budget() -> None:
    """Say what calls may cost in a day or a month, and see what is spent.

    A budget warns; a hard one stops: calls are refused, with 402, before they run.

    \b
    Examples:
      jiffy budget set everything --limit 100 --per month
      jiffy budget set resize --limit 0.50 --per day --function thumbnail --hard
      jiffy budget set shop --limit 20 --per month --tag team=shop --notify https://example.com/alarm
      jiffy budget list
    """


@budget.command("set", short_help="Set a budget, or change one.")
@click.argument("name")
@click.option("--limit", required=True, metavar="AMOUNT", help="What may be spent, in the currency of the price list.")
@click.option("--per", type=click.Choice(["day", "month"]), required=True, help="In how long (UTC).")
@click.option("--function", metavar="NAME", help="Only for this function.")
@click.option("--tag", metavar="NAME=VALUE", help="Only for functions with this tag.")
@click.option("--hard", is_flag=True, help="Refuse calls when it is used up.")
@click.option("--warn-at", type=click.IntRange(1, 100), default=80, show_default=True, help="Per cent of it.")
@click.option("--notify", metavar="WHOM", default="", help='Who is told: "https://…" (signed), or "function:NAME".')
@json_option
def set_budget(
    name: str,
    limit: str,
    per: str,
    function: str | None,
    tag: str | None,
    hard: bool,
    warn_at: int,
    notify: str,
    as_json: bool,
) -> None:
    """Set what may be spent under NAME; one of this name is replaced.

    It is in force in every gateway when this command returns. What was spent before in this day or month counts.
    """
    scope = {key: value for key, value in (("function", function), ("tag", tag)) if value is not None}
    rest = {"per": per, "hard": hard, "warn_at": warn_at, "notify": notify}
    with Client() as client:
        found = Budgets(client).set(name, limit=limit, **scope, **rest)
        told = [notify.removeprefix(FUNCTION)] if notify.startswith(FUNCTION) else []
        warn_of_names(client, [*told, *([function] if function else [])], f"the budget {name}")
    show_json(found) if as_json else click.echo(_table([found]))


@budget.command("list", short_help="List all budgets.")
@json_option
def list_budgets(as_json: bool) -> None:
    """List all budgets, with what is spent of each and when it starts anew."""
    with Client() as client:
        found = Budgets(client).all()
    if as_json:
        show_json({"budgets": found})
    elif not found:
        click.echo("there is no budget yet; `jiffy budget set` makes one", err=True)
    else:
        click.echo(_table(found))


@budget.command(short_help="Show one budget.")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one budget: what is spent, what calls that run may still cost, and when it starts anew."""
    with Client() as client:
        found = Budgets(client).show(name)
    if as_json:
        show_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key:<10}{shown(value) or '-'}")


@budget.command(short_help="Remove a budget.")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a budget: calls are refused for it no more."""
    with Client() as client:
        Budgets(client).remove(name)
    show_json({"removed": name}) if as_json else click.echo(f"removed {name}")


def _table(budgets: list[dict[str, Any]]) -> str:
    heads = ("BUDGET", "FOR", "PER", "SPENT", "LIMIT", "USED", "STATE", "HARD", "STARTS ANEW")
    return columns(heads, [_line(one) for one in budgets])


def _line(one: dict[str, Any]) -> tuple[object, ...]:
    scope = f"tag {one['tag']}" if "tag" in one else one.get("function", "all functions")
    limit = f"{one['limit']} {one['currency']}"
    used, hard = f"{one['percent']:g}%", "yes" if one["hard"] else "no"
    return one["name"], scope, one["per"], short(one["spent"]), limit, used, one["state"], hard, one["resets"]
