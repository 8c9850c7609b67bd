"""`jiffy prune`: what no function needs any more goes. Works on the data folder of this machine, and on its queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from jiffy import home, queue
from jiffy.contract import layout
from jiffy.contract.errors import Unavailable

from .screen import counted, json_option, show_json, size


@click.command(short_help="Remove old revisions, and layers that nothing needs.")
@click.option(
    "--keep", default=10, show_default=True, type=click.IntRange(1), help="Newest revisions of each function."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--redis",
    metavar="URL",
    envvar="JIFFY_REDIS",
    show_envvar=True,
    help="The platform's own Redis, if it was started with one.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="The platform's data folder.  [default: ~/.local/share/jiffy]"
)
@json_option
def prune(keep: int, dry_run: bool, redis: str | None, data: Path | None, as_json: bool) -> None:
    """Remove revisions that are neither in service nor among the newest, and layers and images that nothing needs.

    What a queued call or a running sandbox uses stays, and everything for an hour after it was last used. A platform
    does the same by itself every ten minutes, and keeps the ten newest revisions.

    \b
    Examples:
      jiffy prune --dry-run
      jiffy prune --keep 3
    """
    folder = (data or home.default()).absolute()
    command = [sys.executable, "-m", "builder", "prune", "--data", str(folder), "--keep", str(keep)]
    pruned = _run([*command, *(["--dry-run"] if dry_run else [])], folder, redis)
    show_json(pruned) if as_json else _tell(pruned)


def _run(command: list[str], folder: Path, redis: str | None) -> Any:
    run = folder / layout.RUN
    if not redis and not (run / queue.SOCKET).exists():
        raise Unavailable(f"no platform runs on {folder}: start it, or say which one with --data or --redis")
    run_fd = -1 if redis else os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    env = {**os.environ, "JIFFY_REDIS": redis or queue.socket_url(run, run_fd)}  # URLs hold passwords
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if run_fd >= 0:
        os.close(run_fd)
    if done.returncode != 0:
        raise Unavailable(done.stderr.strip().rpartition("builder: ")[2])
    return json.loads(done.stdout)


def _tell(pruned: dict[str, Any]) -> None:
    for revision in pruned["revisions"]:
        click.echo(revision)
    verb = "would go" if pruned["dry_run"] else "went"
    what = ", ".join(counted(pruned[f"{kind}s"], kind) for kind in ("layer", "image", "blob"))
    click.echo(f"{counted(len(pruned['revisions']), 'revision')}, {what} {verb}: {size(pruned['bytes'])}")
    if pruned["waiting"]:
        click.echo(f"{size(pruned['waiting_bytes'])} more may go once they have been unused for an hour")
