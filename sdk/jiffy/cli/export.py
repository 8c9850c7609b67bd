"""`jiffy bill export`: every call into a file, streamed, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from jiffy import parquet
from jiffy.client import Client
from jiffy.contract.errors import InvalidRequest, Unavailable

from .screen import counted, json_option, show_json

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--function", metavar="NAME", help="Only the calls of one function.")
@click.option("--since", metavar="WHEN", help="From then on: 2026-11-01, 2026-11-01T08:30, 24h, 7d ago.")
@click.option("--until", metavar="WHEN", help="Before then, written the same way.")
@click.option("--month", metavar="MONTH", help="What stands on the bill of a month, such as 2026-11.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), help="Default: by FILE's ending.")
@json_option
def export(
    file: Path,
    function: str | None,
    since: str | None,
    until: str | None,
    month: str | None,
    form: str | None,
    as_json: bool,
) -> None:
    """Write every call to FILE: .csv, .jsonl or .parquet, newest first.

    However many there are, only a few are in memory at a time. FILE appears when it is complete.
    """
    form = form or FORMATS.get(file.suffix)
    if form is None:
        raise click.UsageError(f"{file} ends in none of {', '.join(FORMATS)}: say --format")
    span = {"function": function, "since": since, "until": until, "month": month}
    try:
        with Client() as client, _written(file) as part:
            if form == "parquet":
                count = parquet.write(part, client.usage_rows(**span))
            else:
                lines = client.usage_csv(**span) if form == "csv" else client.usage_lines(**span)
                count = _write(part, lines) - (form == "csv")
    except InvalidRequest as exc:
        raise click.UsageError(exc.message) from exc
    if as_json:
        show_json({"file": str(file), "calls": count})
    else:
        click.echo(f"{counted(count, 'call')} written to {file}")


@contextlib.contextmanager
def _written(file: Path) -> Iterator[Path]:
    """A name to write to; it becomes `file` once all is there."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    except OSError as exc:
        raise Unavailable(f"can't write {file}: {exc.strerror or exc}") from exc
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, lines: Iterable[Any]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as out:
        for line in lines:
            out.write(f"{line}\n")
            count += 1
    return count
