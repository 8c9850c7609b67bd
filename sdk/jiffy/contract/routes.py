"""``"GET /hello/{name}"``: a route's grammar, and the table that finds a request's function. Pure.

    route  = METHOD " " [host] path   METHOD: GET HEAD POST PUT PATCH DELETE OPTIONS, or ANY
    path   = "/" segment …            segment: literal, {parameter}, or (last only) {parameter+}, which takes the rest
    host   = name "." name …          "*." before it stands for any names before it; without a host: every host

A host beats a wider one beats none; literal beats {parameter} beats {parameter+}; a stated method beats ANY, and HEAD
goes where GET does. The table is a tree of segments for each host, so a look-up costs the number of segments in the
path and of names in the host, however many routes there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SEGMENTS_MAX = 64  # the table is as deep as its longest path
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "ANY")
RESERVED = ("/v1", "/function", "/t", "/healthz", "/metrics", "/openapi.json")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(\+?)\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]+")
_HOST = re.compile(r"(?=.{1,253}\Z)(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,62})(?:\.[a-z0-9][a-z0-9-]{0,62})*")


class Route(NamedTuple):
    """A parsed route. `key` is its canonical text, the event's routeKey."""

    key: str
    method: str
    segments: tuple[str, ...]  # "" stands for a parameter
    parameters: tuple[str, ...]  # in order
    greedy: bool
    host: str = ""  # lower case; "" for every host

    @property
    def place(self) -> tuple[str, str, tuple[str, ...], bool]:
        """Equal for routes that take the same requests, whatever their parameters are called."""
        return self.host, self.method, self.segments, self.greedy


def check_host(value: Any) -> str:
    """A host's name as a route has it. Raises ValueError with what is allowed."""
    if value == "":
        return ""
    if not isinstance(value, str) or not _HOST.fullmatch(value.lower()):
        raise ValueError('a host such as "api.example.com" or "*.example.com"')
    return value.lower()


def parse(text: str) -> Route:
    """Raises ValueError with what is wrong and what is allowed."""
    method, _, path = text.strip().partition(" ")
    method, path = method.upper(), path.strip()
    if method not in METHODS:
        raise ValueError(f'{text!r} does not begin with a method; write "GET /path" (one of {", ".join(METHODS)})')
    host, slash, path = path.partition("/")
    if not slash:
        raise ValueError(f'{text!r} has no path beginning with "/"')
    path = slash + path
    try:
        host = check_host(host)
    except ValueError as exc:
        raise ValueError(f"{text!r}: what stands before the path must be {exc}") from None
    for prefix in RESERVED:
        if path == prefix or path.startswith(prefix + "/"):
            raise ValueError(f"{text!r}: {prefix} belongs to the platform")
    if path.count("/") > SEGMENTS_MAX:
        raise ValueError(f"{text[:80]!r}… has more than {SEGMENTS_MAX} segments")
    segments: list[str] = []
    parameters: list[str] = []
    greedy = False
    for part in path[1:].split("/") if path != "/" else []:
        if greedy:
            raise ValueError(f"{text!r}: {{{parameters[-1]}+}} takes the rest of the path and must stand last")
        match = _PARAMETER.fullmatch(part)
        if match:
            if match[1] in parameters:
                raise ValueError(f"{text!r} names {{{match[1]}}} twice")
            parameters.append(match[1])
            greedy = bool(match[2])
            segments.append("")
        elif _LITERAL.fullmatch(part):
            segments.append(part)
        else:
            raise ValueError(f"{text!r}: segment {part!r} is neither plain text nor {{name}} nor {{name+}}")
    return Route(f"{method} {host}{path}", method, tuple(segments), tuple(parameters), greedy, host)


class Match(NamedTuple):
    """What the table found: the owner of the route, and the path parameters (still percent-encoded)."""

    tenant: str
    function: str
    route: Route
    parameters: dict[str, str]


@dataclass(slots=True)
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    here: dict[str, tuple[str, str, Route]] = field(default_factory=dict)  # method → owner
    rest: dict[str, tuple[str, str, Route]] = field(default_factory=dict)  # method → owner, greedy


class RouteTable:
    """Routes of all functions. `find` returns the match, or the methods that would have matched."""

    def __init__(self) -> None:
        self._roots = {"": _Node()}  # by host
        self._owned: dict[tuple[str, str], list[Route]] = {}

    @property
    def by_host(self) -> bool:
        """Is there a route that asks for a host?"""
        return len(self._roots) > 1

    def owner(self, route: Route) -> tuple[str, str] | None:
        """Who holds exactly this route (parameter names aside)?"""
        node = self._roots.get(route.host)
        for segment in route.segments[: len(route.segments) - route.greedy]:
            node = (node.literal.get(segment) if segment else node.parameter) if node else None
        if node is None:
            return None
        held = (node.rest if route.greedy else node.here).get(route.method)
        return held[:2] if held else None

    def replace(self, tenant: str, function: str, routes: tuple[str, ...]) -> None:
        """Replace all routes of a function. A route that another function holds stays with that one."""
        self.remove(tenant, function)
        owned = self._owned[tenant, function] = []
        for route in map(parse, routes):
            node = self._roots.setdefault(route.host, _Node())
            for segment in route.segments[: len(route.segments) - route.greedy]:
                if segment:
                    node = node.literal.setdefault(segment, _Node())
                else:
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
            slot = node.rest if route.greedy else node.here
            if slot.setdefault(route.method, (tenant, function, route))[:2] == (tenant, function):
                owned.append(route)

    def remove(self, tenant: str, function: str) -> None:
        for route in self._owned.pop((tenant, function), ()):
            node = self._roots[route.host]
            for segment in route.segments[: len(route.segments) - route.greedy]:
                child = node.literal.get(segment) if segment else node.parameter
                assert child is not None
                node = child
            (node.rest if route.greedy else node.here).pop(route.method, None)

    def find(self, method: str, path: str, host: str = "") -> Match | tuple[str, ...]:
        """The match, else the methods that this path has (empty: no such path). `host` in lower case, without port."""
        parts = path[1:].split("/") if len(path) > 1 else []
        allowed: set[str] = set()
        for root in self._of(host):
            found = self._find(root, parts, 0, method, [], allowed)
            if found is not None:
                (tenant, function, route), values = found
                return Match(tenant, function, route, dict(zip(route.parameters, values, strict=True)))
        return tuple(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))

    def _of(self, host: str) -> Iterator[_Node]:
        """The trees for a host, the narrowest first."""
        if host and self.by_host:
            if host in self._roots:
                yield self._roots[host]
            while (dot := host.find(".")) >= 0:
                host = host[dot + 1 :]
                if (wide := self._roots.get(f"*.{host}")) is not None:
                    yield wide
        yield self._roots[""]

    def _find(
        self, node: _Node, parts: list[str], at: int, method: str, values: list[str], allowed: set[str]
    ) -> tuple[tuple[str, str, Route], list[str]] | None:
        if at == len(parts):
            held = _held(node.here, method)
            if held:
                return held, values
            allowed.update(node.here)
        else:
            part = parts[at]
            child = node.literal.get(part)
            if child and (found := self._find(child, parts, at + 1, method, values, allowed)):
                return found
            if (
                part
                and node.parameter
                and (found := self._find(node.parameter, parts, at + 1, method, [*values, part], allowed))
            ):
                return found
            held = _held(node.rest, method)
            if held:
                return held, [*values, "/".join(parts[at:])]
            allowed.update(node.rest)
        return None


def _held(methods: dict[str, tuple[str, str, Route]], method: str) -> tuple[str, str, Route] | None:
    found = methods.get(method)
    if found is None and method == "HEAD":
        found = methods.get("GET")
    return found or methods.get("ANY")
