"""Which function? All live revisions in memory, each already packed for the envelope, and the tables of their routes.

Kept true by the stream of changes in Redis; all live numbers are compared only at first, after a lost connection and
every RESYNC_S, in case something else wrote them. A call costs one dictionary look-up, however many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jiffy.contract import aliases, edges, routes, wire
from jiffy.contract.access import qualified
from jiffy.contract.aliases import Alias
from jiffy.contract.edges import Edge
from jiffy.contract.errors import JiffyError, NotFound, PlatformError
from jiffy.contract.messages import Revision

RESYNC_S = 60.0  # Redis reads 10,000 functions in about 0.1 s, in which it does nothing else
AGAIN_S = 0.2
HINTED_MAX = 500  # functions; among more, looking for the name that was meant takes too long
PINNED_MAX = 256  # remembered revisions that were asked for by number


@dataclass(frozen=True, slots=True)
class Function:
    """One revision of a function, ready to be called."""

    tenant: str
    name: str
    revision: Revision
    packed: bytes
    edges: Mapping[str, Edge] = field(default_factory=dict)  # by route; "" is its own URL
    own: Edge | None = field(init=False)  # edges[""]
    number: bytes = field(init=False)  # as a header has it
    label: str = field(init=False)  # as metrics have it

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", self.edges.get(""))
        object.__setattr__(self, "number", b"%d" % self.revision.number)
        object.__setattr__(self, "label", qualified(self.tenant, self.name))


class Functions(Protocol):
    """Where functions come from; `store.Store` is one. All raise Unavailable."""

    async def live(self) -> dict[tuple[str, str], tuple[int, bytes]]: ...

    async def live_revision(self, tenant: str, name: str) -> tuple[bytes, ...] | None: ...

    async def revision(self, tenant: str, name: str, number: int) -> bytes | None: ...

    def changes(self, resync_s: float) -> AsyncGenerator[tuple[str, str] | None]: ...


class Catalog:
    """The functions as this gateway knows them."""

    def __init__(self, source: Functions) -> None:
        self.on_change: list[Callable[[str, str], None]] = []  # told (tenant, function) of every change
        self._source = source
        self._routes: dict[str, routes.RouteTable] = {}  # by tenant
        self._live: dict[tuple[str, str], Function] = {}
        self._stored: dict[tuple[str, str], tuple[bytes, ...]] = {}  # of _live: as Redis has it
        self._aliases: dict[tuple[str, str], dict[str, Alias]] = {}  # of those that have any
        self._named: dict[tuple[str, str], dict[int, Function]] = {}  # the revisions that they name
        self._blocked: set[tuple[str, str]] = set()  # declare a route that another function holds
        self._pinned: dict[tuple[str, str, int], Function] = {}

    def __len__(self) -> int:
        return len(self._live)

    def get(self, tenant: str, name: str) -> Function | None:
        return self._live.get((tenant, name))

    def named(self, tenant: str, name: str, alias: str) -> Function | None:
        """The revision of one call to an alias, by its weights."""
        key = (tenant, name)
        known = self._aliases.get(key, {}).get(alias)
        if known is None:
            return None
        return self._named[key].get(known.choose(random.random())) or self._live.get(key)  # noqa: S311 - guards nothing

    async def find_any(self, tenant: str, text: str) -> Function:
        """``NAME``, ``NAME:ALIAS`` or ``NAME:REVISION``. Raises NotFound."""
        name, colon, which = text.partition(":")
        if not colon:
            return await self.find(tenant, name)
        if which.isascii() and which.isdigit() and 0 < len(which) < 10 and int(which):
            return await self.pinned(tenant, name, int(which))
        await self.find(tenant, name)
        found = self.named(tenant, name, which)
        if found is None and await self.refresh(tenant, name):
            found = self.named(tenant, name, which)
        if found is None:
            raise NotFound(f"function {name!r} has no alias {which[:80]!r}; `jiffy alias list {name}` lists them")
        return found

    def routes_of(self, tenant: str) -> routes.RouteTable:
        """Each tenant has a table of its own: nobody can take a path from another, or learn that it is taken."""
        return self._routes.get(tenant) or routes.RouteTable()

    def all(self, tenant: str) -> list[Function]:
        """A tenant's functions, by name."""
        return sorted((f for f in self._live.values() if f.tenant == tenant), key=lambda f: f.name)

    async def find(self, tenant: str, name: str) -> Function:
        """The live revision; asks Redis once before it raises NotFound."""
        function = self._live.get((tenant, name)) or await self.refresh(tenant, name)
        if function is None:
            raise self.missing(tenant, name)
        return function

    def missing(self, tenant: str, name: str) -> NotFound:
        """That there is no such function, and which one may have been meant."""
        few = self._live if len(self._live) <= HINTED_MAX else ()
        close = difflib.get_close_matches(name, [known for of, known in few if of == tenant], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return NotFound(f"there is no function {name[:80]!r}{hint}")

    async def pinned(self, tenant: str, name: str, number: int) -> Function:
        """A stated revision. Raises NotFound."""
        live = await self.find(tenant, name)
        if live.revision.number == number:
            return live
        key = (tenant, name, number)
        function = self._pinned.get(key)
        if function is None:
            packed = await self._source.revision(*key)
            if packed is None:
                raise NotFound(f"function {name!r} has no revision {number}; {live.revision.number} is live")
            function = _function(tenant, name, packed)
            if len(self._pinned) >= PINNED_MAX:
                self._pinned.clear()
            self._pinned[key] = function
        return function

    async def watch(self) -> None:
        """Keep up with what changes, for as long as the gateway runs."""
        while True:
            with contextlib.suppress(JiffyError):  # Redis is gone for now: all are compared once it is back
                async with contextlib.aclosing(self._source.changes(RESYNC_S)) as changes:
                    async for change in changes:
                        await (self.refresh(*change) if change else self.resync())
            await asyncio.sleep(AGAIN_S)

    async def resync(self) -> None:
        """Compare all live numbers with what is known, and load what differs."""
        live = await self._source.live()
        for key in [key for key in self._live if key not in live]:
            self._forget(key)
        for key, (number, named) in live.items():
            known = self._live.get(key)
            if known is None or known.revision.number != number or self._stored[key][1] != named:
                await self.refresh(*key)

    async def refresh(self, tenant: str, name: str) -> Function | None:
        """Load one function anew; None when it is gone. One that can't be read stays as it was."""
        stored = await self._source.live_revision(tenant, name)
        key = (tenant, name)
        if stored is None:
            self._forget(key)
            return None
        known = self._live.get(key)
        if known is not None and self._stored[key] == stored:
            return known
        packed, text, *others = stored
        try:
            function = _function(tenant, name, packed)
            named = {one.revision.number: one for one in (_function(tenant, name, other) for other in others)}
        except PlatformError:
            return known
        self._live[key], self._stored[key] = function, stored
        self._aliases[key], self._named[key] = aliases.read(text.decode()), named
        self._route(key)
        return function

    def _forget(self, key: tuple[str, str]) -> None:
        if self._live.pop(key, None) is not None:
            del self._stored[key], self._aliases[key], self._named[key]
            for pinned in [p for p in self._pinned if p[:2] == key]:
                del self._pinned[pinned]
            self.routes_of(key[0]).remove(*key)
            self._blocked.discard(key)
            self._unblock()
            self._tell(key)

    def _route(self, key: tuple[str, str]) -> None:
        self._place(key)
        self._unblock(key)
        self._tell(key)

    def _tell(self, key: tuple[str, str]) -> None:
        for told in self.on_change:
            told(*key)

    def _unblock(self, but: tuple[str, str] | None = None) -> None:
        """A function that moved may have freed a route that another one declares."""
        for key in sorted(self._blocked - {but}):
            self._place(key)

    def _place(self, key: tuple[str, str]) -> None:
        declared, table = self._live[key].revision.routes, self._routes.setdefault(key[0], routes.RouteTable())
        try:
            table.replace(*key, declared)
            blocked = any(table.owner(routes.parse(text)) != key for text in declared)
        except ValueError:  # written by a release with another grammar: /function/NAME still works
            table.remove(*key)
            blocked = False
        (self._blocked.add if blocked else self._blocked.discard)(key)


def _function(tenant: str, name: str, packed: bytes) -> Function:
    """Raises PlatformError. What travels in every call is without the triggers: none but gateways reads them."""
    revision = wire.unpack(Revision, packed)
    declared = revision.spec.get("triggers")
    if declared:
        packed = wire.pack(revision._replace(spec={**revision.spec, "triggers": []}))
    return Function(tenant, name, revision, packed, _edges(declared) if declared else {})


def _edges(declared: Sequence[Mapping[str, Any]]) -> dict[str, Edge]:
    try:
        return edges.declared(declared)
    except (LookupError, TypeError, ValueError):  # written by a release with other keys
        return {}
