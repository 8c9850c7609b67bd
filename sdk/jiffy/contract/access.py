"""API keys and what their roles allow; the keys file of `jiffy up --keys`. Pure.

    [keys.ci]
    tenant = "acme"
    role = "deploy"
    key_sha256 = "…"     64 hexadecimal digits; the key itself is nowhere on disk

A key of 256 random bits needs no salt and no slow hash: nobody tries them all. Who looks keys up: gateway/keyring.py.
"""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from .errors import SpecError
from .spec import check_name

DEFAULT_TENANT = "default"  # whom JIFFY_API_KEY, and a platform without keys, act for
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("tenant", "role", "key_sha256")


class Role(StrEnum):
    """What a key is for; what it allows stands in ALLOWS."""

    INVOKE = "invoke"
    READ = "read"
    DEPLOY = "deploy"
    ADMIN = "admin"


ALLOWS: dict[Role, frozenset[Role]] = {
    Role.INVOKE: frozenset({Role.INVOKE}),
    Role.READ: frozenset({Role.READ}),
    Role.DEPLOY: frozenset({Role.INVOKE, Role.READ, Role.DEPLOY}),
    Role.ADMIN: frozenset(Role),
}


class ApiKey(NamedTuple):
    """One entry of the keys file."""

    name: str
    tenant: str
    role: Role
    key_sha256: str


def qualified(tenant: str, name: str) -> str:
    """A function's name where those of all tenants stand together, as in metrics."""
    return name if tenant == DEFAULT_TENANT else f"{tenant}/{name}"


def digest(key: str) -> str:
    """What the file keeps of a key."""
    return sha256(key.encode()).hexdigest()


def parse_keys(text: str, where: str) -> tuple[ApiKey, ...]:
    """The entries of a keys file. Raises SpecError with a line for every mistake."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{where} is no TOML: {exc}") from exc
    wrong = [f"{where}: unknown table {name!r}; allowed: keys" for name in document if name != "keys"]
    tables = document.get("keys", {})
    if not isinstance(tables, dict):
        raise SpecError(f"{where}: keys must hold tables, such as [keys.ci]")
    found: dict[str, ApiKey] = {}
    for name, table in tables.items():
        try:
            key = _parse_key(name, table)
        except SpecError as exc:
            wrong.append(f"{where}: [keys.{name}]: {exc.message}")
            continue
        twin = found.setdefault(key.key_sha256, key)
        if twin is not key:
            wrong.append(f"{where}: [keys.{name}] has the same key as [keys.{twin.name}]")
    if wrong:
        raise SpecError("\n".join(wrong))
    return tuple(found.values())


def _parse_key(name: str, table: object) -> ApiKey:
    check_name(name, "key")
    if not isinstance(table, dict):
        raise SpecError(f"must be a table with {', '.join(_FIELDS)}")
    for field in table:
        if field not in _FIELDS:
            raise SpecError(f"unknown key {field!r}; allowed: {', '.join(_FIELDS)}")
    role, sha = table.get("role"), table.get("key_sha256")
    if role not in tuple(Role):
        raise SpecError(f"role = {role!r}; allowed: {', '.join(Role)}")
    if not isinstance(sha, str) or not _SHA256.fullmatch(sha):
        raise SpecError("key_sha256 must be 64 hexadecimal digits, lower case: `jiffy keys new` writes them")
    return ApiKey(name, check_name(table.get("tenant"), "tenant"), Role(role), sha)
