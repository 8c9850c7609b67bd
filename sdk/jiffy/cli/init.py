"""`jiffy init`: writes the smallest useful function."""

from __future__ import annotations

from pathlib import Path

import click

from jiffy.contract.errors import Conflict

TOML = """\
# Each [functions.NAME] table declares one function. All keys: docs/jiffy-toml.md
[functions.hello]
handler = "hello:handler"         # module:attribute
memory_mb = 128
timeout_s = 3
routes = ["GET /hello/{name}"]    # besides /function/hello, which always works
"""
HANDLER = '''\
def handler(event, context):
    """Greets whoever calls: over HTTP, or with `jiffy invoke hello '{"name": "Ada"}'`."""
    name = event.get("pathParameters", event).get("name", "world")
    print(f"greeting {name}")
    return {"message": f"Hello, {name}!"}
'''
IGNORE = """\
# What the function does not need when it runs; the rules of .gitignore hold too.
tests/
*.md
"""
FILES = {"jiffy.toml": TOML, "hello.py": HANDLER, ".jiffyignore": IGNORE}


@click.command(short_help="Write a first function to start from.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Write a first function into DIR (the current folder, if you name none). Nothing is overwritten.

    \b
    Example:
      jiffy init hello
      jiffy deploy hello
    """
    for name in FILES:
        if (folder / name).exists():
            raise Conflict(f"{folder / name} exists already; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise Conflict(f"can't write to {folder}: {exc.strerror}") from exc
    where = "" if folder == Path() else f" {folder}"
    click.echo(f"wrote {', '.join(FILES)}; now: jiffy deploy{where}")
