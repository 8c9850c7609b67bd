"""What an ``http`` trigger may say: which requests come to the function, and what the gateway does about them at its
edge, before a function runs or in its stead. Pure: a table in, an `Edge` or ValueError out.

A trigger without a path is about the function's own URL, /function/NAME. How the gateway carries it out:
gateway/edge.py. How routes are matched: routes.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import httpevent, limits, routes

REDIRECTS = (301, 302, 303, 307, 308)
_ORIGIN = re.compile(r"https?://(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[1-9][0-9]{0,4})?")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")  # spec.check_name's
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_PLACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\+?\}")
_CORS_MAX = 50  # origins, headers


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other sites may read the answers. Source of the contract: the Fetch standard, CORS protocol."""

    origins: tuple[str, ...]  # "https://app.example", "https://*.example", "*"
    methods: tuple[str, ...] = ()  # empty: those of the route
    headers: tuple[str, ...] = ("*",)
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: int = 600

    def allows(self, origin: str) -> bool:
        return any(_same_origin(allowed, origin.lower()) for allowed in self.origins)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A response that needs no call. `to` is a redirect's target, in which {parameters} are put."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    to: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One ``http`` trigger, read."""

    name: str  # the trigger's
    methods: tuple[str, ...]  # that it was declared for; ("ANY",) for all
    body_max_bytes: int
    rate_per_s: float  # 0: as many as come
    burst: int
    rate_per: str  # "route" | "client"
    cors: Cors | None
    fixed: Fixed | None
    compress: bool
    etag: bool
    alias: str = ""  # calls what it names; "": the live revision


def read(table: Mapping[str, Any]) -> Edge:
    """A complete table of triggers.HTTP, checked before (lists may have become tuples on the way)."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table["cors"].items()}
    fixed = None
    if table["response"]:
        fixed = _fixed(table["response"])
    elif table["redirect"]:
        fixed = Fixed(table["redirect"]["status"], to=table["redirect"]["to"])
    return Edge(
        name=table["name"],
        methods=tuple(table["methods"]),
        body_max_bytes=table["body_max_bytes"] or limits.PAYLOAD_MAX_BYTES,
        rate_per_s=table["rate_per_s"],
        burst=table["burst"] or max(1, round(table["rate_per_s"])),
        rate_per=table["rate_per"],
        cors=Cors(**given) if given else None,
        fixed=fixed,
        compress=table["compress"],
        etag=table["etag"],
        alias=table.get("alias", ""),
    )


def _fixed(table: Mapping[str, Any]) -> Fixed:
    """As a function's result would be read. Raises ValueError for what HTTP can't carry."""
    result = {"statusCode": table["status"], "headers": dict(table["headers"]), "body": table["body"]}
    status, headers, body = httpevent.response(json.dumps(result).encode())
    return Fixed(status, tuple(headers), body)


def declared(tables: Iterable[Mapping[str, Any]]) -> dict[str, Edge]:
    """The edges among a function's triggers, by the routes that lead to them; "" is the function's own URL."""
    found: dict[str, Edge] = {}
    for table in tables:
        if table.get("type") == "http":
            edge = read(table)
            found |= dict.fromkeys(keys(table) or ("",), edge)
    return found


def keys(table: Mapping[str, Any]) -> tuple[str, ...]:
    """The canonical texts of a complete table's routes; none without a path. Raises ValueError."""
    if not table["path"]:
        return ()
    return tuple(routes.parse(f"{method} {table['host']}{table['path']}").key for method in table["methods"])


def every_route(own: Iterable[str], tables: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Those that stand in `routes` and those that triggers declare. Raises ValueError where two take the same requests,
    or there are too many.
    """
    found = (*own, *(key for table in tables if table.get("type") == "http" for key in keys(table)))
    if len(found) > limits.ROUTES_MAX:
        raise ValueError(f"there are {len(found)} routes, those of http triggers included; at most {limits.ROUTES_MAX}")
    places: dict[object, str] = {}
    for text in found:
        before = places.setdefault(routes.parse(text).place, text)
        if before is not text:
            raise ValueError(f"{before!r} and {text!r} take the same requests")
    return found


def whole(table: dict[str, Any]) -> None:
    """Does a complete table make sense? Raises ValueError."""
    if table["host"] and not table["path"]:
        raise ValueError("host needs a path; the function's own URL answers under every name")
    if not table["path"] and (table["response"] or table["redirect"]):
        raise ValueError("response and redirect need a path")
    if table["response"] and table["redirect"]:
        raise ValueError("response and redirect exclude each other")
    if table["alias"] and (table["response"] or table["redirect"]):
        raise ValueError("alias is for routes that call the function")
    if table["burst"] and not table["rate_per_s"]:
        raise ValueError("burst needs rate_per_s")
    keys(table)
    if table["redirect"]:
        known = routes.parse(f"ANY {table['path']}").parameters
        lacks = [name for name in _PLACED.findall(table["redirect"]["to"]) if name not in known]
        if lacks:
            raise ValueError(f"redirect names {{{lacks[0]}}}, which is not in path = {table['path']!r}")


# --- the options ------------------------------------------------------------------------------------------------


def check_path(value: Any) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError('a path such as "/items/{id}" or "/files/{rest+}"')
    return value.strip()


def check_methods(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"a list of {', '.join(routes.METHODS)}")
    found = [str(one).upper() for one in value]
    if any(one not in routes.METHODS for one in found) or len(set(found)) < len(found):
        raise ValueError(f"a list of {', '.join(routes.METHODS)}, each once")
    if "ANY" in found and len(found) > 1:
        raise ValueError('["ANY"] alone, or methods by name')
    return found


def check_alias(value: Any) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or len(value) > limits.NAME_MAX_CHARS or not _NAME.fullmatch(value):
        raise ValueError('an alias of the function, such as "prod"')
    return value


def check_cors(value: Any) -> dict[str, Any]:
    """A complete table of Cors, or an empty one."""
    example = 'a table such as { origins = ["https://app.example.com"] }'
    if not isinstance(value, Mapping):
        raise ValueError(example)
    if not value:
        return {}
    _only(value, ("origins", "methods", "headers", "expose", "credentials", "max_age_s"))
    origins = [one.lower() for one in _texts(value.get("origins", ()), "origins")]
    if not origins or any(one != "*" and not _ORIGIN.fullmatch(one) for one in origins):
        raise ValueError(f'{example}; an origin is "https://host[:port]", "https://*.example.com" or "*", no path')
    credentials = value.get("credentials", False)
    if not isinstance(credentials, bool):
        raise ValueError("credentials = true or false")
    if credentials and "*" in origins:
        raise ValueError('credentials only with origins by name: with "*" any page could act as the user')
    methods = _texts(value.get("methods", ()), "methods")
    headers, expose = (_texts(value.get(key, given), key) for key, given in (("headers", ("*",)), ("expose", ())))
    if any(not _HEADER.fullmatch(one) for one in (*headers, *expose, *methods)):
        raise ValueError('methods, headers and expose as lists of names, such as ["content-type"]')
    age = value.get("max_age_s", 600)
    if isinstance(age, bool) or not isinstance(age, int) or not 0 <= age <= 86400:
        raise ValueError("max_age_s as a whole number from 0 to 86400")
    return {
        "origins": origins,
        "methods": [one.upper() for one in methods],
        "headers": [one.lower() for one in headers],
        "expose": [one.lower() for one in expose],
        "credentials": credentials,
        "max_age_s": age,
    }


def check_response(value: Any) -> dict[str, Any]:
    """A complete table {status, headers, body}, or an empty one."""
    if not isinstance(value, Mapping):
        raise ValueError('a table such as { status = 200, headers = { content-type = "text/plain" }, body = "ok" }')
    if not value:
        return {}
    _only(value, ("status", "headers", "body"))
    status, headers, body = value.get("status", 200), value.get("headers", {}), value.get("body", "")
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError("status as a whole number from 200 to 599")
    if not isinstance(headers, Mapping) or not all(isinstance(one, str) for one in headers.values()):
        raise ValueError("headers as a table of strings")
    if not isinstance(body, str):
        raise ValueError("body as a string")
    named = {str(name).lower(): text for name, text in headers.items()}
    complete = {
        "status": status,
        "headers": {"content-type": "text/plain; charset=utf-8"} | named,
        "body": body,
    }
    _fixed(complete)  # what HTTP can't carry is refused here
    return complete


def check_redirect(value: Any) -> dict[str, Any]:
    """A complete table {to, status}, or an empty one."""
    example = 'a table such as { to = "https://new.example.com/{rest}", status = 308 }'
    if isinstance(value, str) and value:
        value = {"to": value}
    if not isinstance(value, Mapping):
        raise ValueError(example)
    if not value:
        return {}
    _only(value, ("to", "status"))
    to, status = value.get("to"), value.get("status", 308)
    if isinstance(status, bool) or status not in REDIRECTS:
        raise ValueError(f"{example}; status is one of {', '.join(map(str, REDIRECTS))}")
    if not isinstance(to, str) or len(to) > 2048 or not to.isascii() or any(c <= " " or c == "\\" for c in to):
        raise ValueError(example)
    if not (to.startswith("/") and not to.startswith("//")) and not _address(to):
        raise ValueError(f'{example}; to is "/path" or "https://host/path", {{parameters}} only after the host')
    return {"to": to, "status": status}


def _address(text: str) -> bool:
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        return url.scheme in ("http", "https") and bool(host) and "{" not in url.netloc and url.username is None
    except ValueError:
        return False


def _only(table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"only {', '.join(allowed)} in it, not {str(key)[:40]!r}")


def _texts(value: Any, what: str) -> list[str]:
    listed = isinstance(value, (list, tuple)) and len(value) <= _CORS_MAX
    if not listed or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{what} as a list of at most {_CORS_MAX} strings")
    return list(value)


def _same_origin(allowed: str, origin: str) -> bool:
    scheme, wide, domain = allowed.partition("*.")
    if allowed == "*" or not wide:
        return allowed in ("*", origin)
    return origin.startswith(scheme) and origin.endswith(f".{domain}") and _ORIGIN.fullmatch(origin) is not None
