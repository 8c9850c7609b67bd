"""`jiffy keys`: makes, lists and removes the API keys in the file of `jiffy up --keys`. Speaks to no platform.

The file keeps each key's SHA-256 and nothing that could be used to call. What is in it: jiffy.contract.access.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import tomlkit

from jiffy.contract.access import DEFAULT_TENANT, ApiKey, Role, digest, parse_keys
from jiffy.contract.errors import Conflict, InvalidRequest, NotFound
from jiffy.contract.spec import check_name

from .screen import columns, json_option, show_json

MODE = 0o600  # hashes of keys tell nobody a key, and who has which is nobody else's business
PREFIX = "jk_"  # so that scanners for leaked secrets can tell one
HEAD = "API keys of this platform: `jiffy keys --help`. Gateways read this file again when it changes."

_file = click.option(
    "--keys",
    "path",
    metavar="FILE",
    required=True,
    envvar="JIFFY_KEYS",
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file that `jiffy up --keys` was given.",
)


@click.group(short_help="Make API keys for tenants, and take them back.")
def keys() -> None:
    """Make API keys for tenants, and take them back, in the file that `jiffy up --keys FILE` reads.

    \b
    Each key stands for a tenant and has a role:
      invoke   call functions, read results, publish events
      read     list, logs, bill
      deploy   all of the tenant's: deploy and remove, too
      admin    all of all tenants, and hosts, prices, audit

    \b
    Examples:
      jiffy keys new acme-ci --tenant acme --role deploy --keys keys.toml
      jiffy up --keys keys.toml
    """


@keys.command(short_help="Make a key and print it, this once.")
@click.argument("name")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whom it stands for.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.DEPLOY.value,
    show_default=True,
    help="What it may do.",
)
@_file
@json_option
def new(name: str, tenant: str, role: str, path: Path, as_json: bool) -> None:
    """Make the key NAME and print it. It is kept nowhere: who loses it takes a new one.

    \b
    Examples:
      jiffy keys new acme-ci --tenant acme --role deploy --keys keys.toml
      export JIFFY_API_KEY=$(jiffy keys new shop --tenant acme --role invoke --keys keys.toml)
    """
    check_name(name, "key")
    check_name(tenant, "tenant")
    key = PREFIX + secrets.token_urlsafe(32)
    with _editing(path) as document:
        tables = document.setdefault("keys", tomlkit.table(is_super_table=True))
        if name in tables:
            raise Conflict(f"{path} has a key {name!r} already; remove it first, or take another name")
        entry = tomlkit.table()
        entry.update({"tenant": tenant, "role": role, "key_sha256": digest(key)})
        tables[name] = entry
    if as_json:
        show_json({"name": name, "tenant": tenant, "role": role, "key": key})
    else:
        click.echo(key)


@keys.command("list", short_help="List the keys: names, tenants, roles.")
@_file
@json_option
def list_keys(path: Path, as_json: bool) -> None:
    """List the keys: names, tenants, roles.

    \b
    Example:
      jiffy keys list --keys keys.toml
    """
    found = sorted(_parsed(_read(path), path), key=lambda key: (key.tenant, key.name))
    if as_json:
        show_json({"keys": [{"name": key.name, "tenant": key.tenant, "role": key.role} for key in found]})
    else:
        click.echo(columns(("NAME", "TENANT", "ROLE"), [(key.name, key.tenant, key.role) for key in found]))


@keys.command(short_help="Take a key back.")
@click.argument("name")
@_file
@json_option
def remove(name: str, path: Path, as_json: bool) -> None:
    """Take the key NAME back: within a second it opens nothing.

    \b
    Example:
      jiffy keys remove acme-ci --keys keys.toml
    """
    with _editing(path) as document:
        tables = document.get("keys", {})
        if name not in tables:
            there = f"there are {', '.join(sorted(tables))}" if tables else "there is none"
            raise NotFound(f"{path} has no key {name!r}; {there}")
        del tables[name]
    if as_json:
        show_json({"removed": name})
    else:
        click.echo(f"removed {name}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"can't read {path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _parsed(text: str, path: Path) -> tuple[ApiKey, ...]:
    return parse_keys(text, str(path))


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[Any]:
    """The file as a document to change, comments and all; replaced in one step, by one `jiffy keys` at a time."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise InvalidRequest(f"can't open the folder of {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        text = _read(path) if path.exists() else f"# {HEAD}\n"
        _parsed(text, path)  # what is wrong is the user's to mend, not ours to overwrite
        document = tomlkit.parse(text)
        yield document
        changed = tomlkit.dumps(document)
        _parsed(changed, path)
        _replace(path, changed)
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    place = path.resolve()  # a link stays one
    try:
        mode = place.stat().st_mode & 0o777 if place.exists() else MODE
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=place.parent, delete=False) as made:
            made.write(text)
            made.flush()
            os.fchmod(made.fileno(), mode)
            os.fsync(made.fileno())
        Path(made.name).replace(place)
    except OSError as exc:
        raise InvalidRequest(f"can't write {path}: {exc.strerror or exc}") from exc
