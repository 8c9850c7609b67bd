"""`jiffy list`, `show` and `remove`: the functions that are deployed."""

from __future__ import annotations

from typing import Any

import click

from jiffy.client import Client

from .screen import columns, json_option, show_json, shown, size, when

HIDDEN = "(hidden; see --show-env)"
ELSEWHERE = ("env", "triggers")  # settings that are not shown as they stand


@click.command("list", short_help="List your functions.")
@json_option
def list_functions(as_json: bool) -> None:
    """List the functions that are deployed, with the revision in service.

    \b
    Example:
      jiffy list
    """
    with Client() as client:
        found = client.functions()
    if as_json:
        show_json({"functions": found})
    elif not found:
        click.echo("no function is deployed yet; `jiffy init` writes one, `jiffy deploy` puts it in service", err=True)
    else:
        heads = ("NAME", "REVISION", "RUNTIME", "MEMORY", "SIZE", "ROUTES")
        click.echo(columns(heads, [_row(function) for function in found]))


def _row(function: dict[str, Any]) -> tuple[object, ...]:
    where = ", ".join([*function["routes"], f"/function/{function['name']}"])
    return (
        *(function["name"], function["revision"], function["runtime"], f"{function['memory_mb']} MB"),
        *(size(function["size_bytes"]), where),
    )


@click.command(short_help="Show one function: revisions, layers, routes.")
@click.argument("name")
@click.option("--show-env", is_flag=True, help="Print the values of environment variables, too.")
@click.option("--sbom", is_flag=True, help="Print its bill of materials instead: CycloneDX, JSON.")
@click.option("--revision", type=click.IntRange(min=1), help="Of which revision.  [default: the one in service]")
@json_option
def show(name: str, show_env: bool, sbom: bool, revision: int | None, as_json: bool) -> None:
    """Show the function NAME: its configuration, its layers and all of its revisions.

    \b
    Examples:
      jiffy show hello
      jiffy show hello --json --show-env
      jiffy show hello --sbom > hello.cdx.json
    """
    if revision and not sbom:
        raise click.UsageError("--revision is for --sbom; without it all revisions are shown")
    with Client() as client:
        if sbom:
            show_json(client.sbom(name, revision))
            return
        function = client.function(name)
    if not show_env:
        for place in (function, function["spec"]):
            place["env"] = dict.fromkeys(place.get("env", {}), HIDDEN)
    if as_json:
        show_json(function)
        return
    click.echo(columns(("NAME", function["name"]), _facts(function)))
    click.echo()
    layers = [(layer["kind"], size(layer["size_bytes"]), layer["digest"]) for layer in function["layers"]]
    click.echo(columns(("LAYER", "SIZE", "DIGEST"), layers))
    click.echo()
    revisions = [
        (
            one["revision"],
            "live" if one["live"] else "",
            when(one["created_ms"]),
            one["runtime"],
            one["digest"][:19] + "…",
        )
        for one in function["revisions"]
    ]
    click.echo(columns(("REVISION", "", "MADE", "RUNTIME", "DIGEST"), revisions))


def _facts(function: dict[str, Any]) -> list[tuple[str, object]]:
    """Where it is called, and then every setting under the name that jiffy.toml has for it, defaults included."""
    spec = function["spec"]
    settings = [(key, _setting(key, value)) for key, value in spec.items() if key not in ELSEWHERE]
    return [
        ("url", function["url"]),
        ("revision", function["revision"]),
        *settings,
        ("triggers", f"{len(spec.get('triggers', ()))}: see jiffy triggers list" if spec.get("triggers") else ""),
        ("env", ", ".join(n if v == HIDDEN else f"{n}={v}" for n, v in sorted(function["env"].items()))),
    ]


def _setting(key: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in sorted(value.items()))
    if isinstance(value, float):
        return f"{value:g}"
    return "no bound" if key == "max_requests" and value == 0 else shown(value)


@click.command(short_help="Remove a function.")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@json_option
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Remove the function NAME: its URL, routes, revisions and logs. What its calls cost stays on the bill.

    Calls that are queued already still run, with the revision that they were queued for; `jiffy cancel` takes one back.

    \b
    Example:
      jiffy remove hello
      jiffy remove hello --yes
    """
    with Client() as client:
        client.function(name)  # says what is wrong before it asks
        tellers = [one["name"] for one in client.functions() if f"function:{name}" in one.get("destinations", ())]
        if others := ", ".join(one for one in tellers if one != name):
            click.echo(f"jiffy: warning: {name} is a destination of {others}: what it is told will wait", err=True)
        if not yes:
            click.confirm(
                f"Remove {name} with all of its revisions and logs? Calls that are queued still run.",
                abort=True,
                err=True,
            )
        client.remove(name)
    if as_json:
        show_json({"removed": name})
        return
    click.echo(f"removed {name}")
    if yes:  # who was asked knows
        click.echo("jiffy: calls that were queued before still run; `jiffy cancel ID` takes one back", err=True)
