"""`jiffy init`: writes the smallest useful function, named after its folder."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from pathlib import Path

import click

from jiffy.contract import limits, spec
from jiffy.contract.errors import Conflict

TOML = """\
# Each [functions.NAME] table declares one function.
[functions.{name}]
handler = {handler:<{width}}  # module:attribute
{runtime}memory_mb = {memory:<{short}}  # what one instance may use
timeout_s = {timeout:<{short}}  # how long one call may run
routes = {route:<{long}}  # besides /function/{name}, which always works

# The other keys, with their defaults:
{others}
"""
HANDLER = '''\
def handler(event, context):
    """Greets whoever calls: over HTTP, or with `jiffy invoke {name} '{{"name": "Ada"}}'`."""
    name = event.get("pathParameters", event).get("name", "world")
    print(f"greeting {{name}}")
    return {{"message": f"Hello, {{name}}!"}}
'''
NODE_HANDLER = """\
/** Greets whoever calls: over HTTP, or with `jiffy invoke {name} '{{"name": "Ada"}}'`. */
export const handler = async (event) => {{
  const {{ name = "world" }} = event.pathParameters ?? event;
  console.log("greeting", name);
  return {{ message: `Hello, ${{name}}!` }};
}};
"""
RUNTIMES = {"python3": (HANDLER, "py"), "nodejs": (NODE_HANDLER, "mjs")}
IGNORE = """\
# What the function does not need when it runs; the rules of .gitignore hold too.
tests/
*.md
"""
SHOWN = ("handler", "memory_mb", "timeout_s", "routes")


@click.command(short_help="Write a first function to start from.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--runtime", type=click.Choice([*RUNTIMES]), default="python3", show_default=True, help="What to write it in."
)
def init(folder: Path, runtime: str) -> None:
    """Write a first function into DIR (the current folder, if you name none), named after it. Nothing is overwritten.

    \b
    Example:
      jiffy init hello
      jiffy deploy hello
    """
    name = _function(folder.resolve().name)
    module = _module(name)
    handler, suffix = RUNTIMES[runtime]
    files = {
        "jiffy.toml": _toml(name, module, runtime),
        f"{module}.{suffix}": handler.format(name=name),
        ".jiffyignore": IGNORE,
    }
    for file in files:
        if (folder / file).exists():
            raise Conflict(f"{folder / file} exists already; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise Conflict(f"can't write to {folder}: {exc.strerror}") from exc
    where = "" if folder == Path() else f" {shlex.quote(str(folder))}"
    click.echo(f"wrote {', '.join(files)}; now: jiffy deploy{where}")


def _function(folder: str) -> str:
    """The folder's name as a function's: "My App" makes my-app."""
    words = re.sub(r"[^a-z0-9]+", "-", folder.lower())[: limits.NAME_MAX_CHARS]
    return re.sub(r"^[^a-z]+", "", words).strip("-") or "hello"


def _module(name: str) -> str:
    """A module for it that hides none of Python's own."""
    module = name.replace("-", "_")
    return "app" if module in sys.stdlib_module_names or keyword.iskeyword(module) else module


def _toml(name: str, module: str, runtime: str) -> str:
    handler, route = f'"{module}:handler"', f'["GET /{name}/{{name}}"]'
    width = max(len("handler = " + handler), len("routes = " + route))
    named = f'runtime = "{runtime}"'
    stated = "" if runtime == "python3" else f"{named:<{width}}  # as the builder has it\n"
    shown = (*SHOWN, *(["runtime"] if stated else []))
    others = [f"# {key} = {one.default}  # {one.meaning}" for key, one in spec.KEYS.items() if key not in shown]
    return TOML.format(
        name=name,
        handler=handler,
        runtime=stated,
        route=route,
        memory=limits.MEMORY_DEFAULT_MB,
        timeout=f"{limits.TIMEOUT_DEFAULT_S:g}",
        width=width - len("handler = "),
        short=width - len("memory_mb = "),
        long=width - len("routes = "),
        others="\n".join(others),
    )
