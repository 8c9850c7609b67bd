"""`jiffy up`: turns its options into a plan for the supervisor, and the supervisor's end into an exit code."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path

import click

from jiffy import home
from jiffy.contract.registry import AUTH, Shelf
from jiffy.supervisor import Plan, Supervisor


def _networks(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(network)) for network in given)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _shelf(ctx: click.Context, parameter: click.Parameter, given: str) -> str:
    if given:
        Shelf.parse(given)
    return given


@click.command(short_help="Start a platform on this machine.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need keys.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that keeps everything.  [default: ~/.local/share/jiffy]",
)
@click.option(
    "--ledger",
    metavar="URL",
    envvar="JIFFY_LEDGER",
    show_envvar=True,
    help="A database of your own for the bill instead of an SQLite file.",
)
@click.option(
    "--keep-calls",
    metavar="DAYS",
    type=click.IntRange(35, 36_500),  # a month's calls can still be looked at when it is closed
    help="Remove single calls from the bill after so long; sums and statements stay.  [default: never]",
)
@click.option(
    "--prices",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Price books of your own (TOML, docs/billing.md).",
)
@click.option(
    "--redis",
    metavar="URL",
    envvar="JIFFY_REDIS",
    show_envvar=True,
    help="A Redis or Valkey of your own instead of the embedded one.",
)
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "docker", "bwrap"]),
    default="auto",
    show_default=True,
    help="What isolates functions; auto takes Docker where it answers.",
)
@click.option("--gateways", default=1, show_default=True, type=click.IntRange(1, 64), help="Gateway processes.")
@click.option(
    "--stems", default=2, show_default=True, type=click.IntRange(0, 1000), help="Started sandboxes kept for cold calls."
)
@click.option("--instances", default=0, type=click.IntRange(0), help="Most that may run here.  [default: what fits]")
@click.option("--tenant-instances", default=0, type=click.IntRange(0), help="Most of one tenant.  [default: all]")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Without a key, answer to this Host too; a proxy's name, say."
)
@click.option(
    "--files",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Let triggers of type files watch this folder and what is in it.",
)
@click.option(
    "--callbacks-to",
    multiple=True,
    metavar="NETWORK",
    callback=_networks,
    help="Let on_success and on_failure reach it though it is not public; 10.0.0.0/8, say.",
)
@click.option(
    "--keep-alive",
    type=click.Choice(["fixed", "lru", "greedy-dual", "hybrid-histogram", "hit-density"]),
    default="hit-density",
    show_default=True,
    help="Which sleeping sandboxes go.",
)
@click.option("--warm-mb", default=0, type=click.IntRange(0), help="What they may take.  [default: a quarter]")
@click.option(
    "--keys",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="JIFFY_KEYS",
    help="API keys of tenants (`jiffy keys`); read again when it changes.",
)
@click.option(
    "--registry",
    default="",
    metavar="HOST/PREFIX",
    callback=_shelf,
    help="Push layers there, for invokers on other hosts to pull (docs/production.md).",
)
@click.option("--verbose", is_flag=True, help="Print the logs of all parts here instead of into DATA/logs.")
def up(
    host: str,
    port: int,
    data: Path | None,
    ledger: str | None,
    keep_calls: int | None,
    prices: Path | None,
    redis: str | None,
    sandbox: str,
    gateways: int,
    stems: int,
    instances: int,
    tenant_instances: int,
    keep_alive: str,
    warm_mb: int,
    allow_host: tuple[str, ...],
    files: tuple[Path, ...],
    callbacks_to: tuple[str, ...],
    keys: Path | None,
    registry: str,
    verbose: bool,
) -> None:
    """Start a platform on this machine.

    Gateway, invoker, builder and an embedded queue run as processes under this one until you press Ctrl-C. Functions,
    queued calls and the bill stay in the data folder and are there again at the next start.

    \b
    Examples:
      jiffy up
      jiffy up --port 9000 --data ./platform
      JIFFY_API_KEY=… jiffy up --host 0.0.0.0
    """
    plan = Plan(
        host=host,
        port=port,
        data=data or home.default(),
        redis=redis,
        sandbox=sandbox,
        gateways=gateways,
        stems=stems,
        instances=instances,
        tenant_instances=tenant_instances,
        keep_alive=keep_alive,
        warm_mb=warm_mb,
        ledger=ledger,
        keep_calls=keep_calls or 0,
        prices=prices.absolute() if prices else None,
        verbose=verbose,
        allow_hosts=allow_host,
        files=tuple(folder.absolute() for folder in files),
        callbacks_to=callbacks_to,
        api_key=os.environ.get("JIFFY_API_KEY") or None,
        keys=keys.absolute() if keys else None,
        registry=registry,
        registry_auth=os.environ.get(AUTH, ""),
    )
    supervisor = Supervisor(plan, say=lambda line: click.echo(f"jiffy: {line}", err=True), ready=click.echo)
    asyncio.run(supervisor.run())
