"""What Redis is told of aliases. What they are: jiffy.contract.aliases; who is called by one: catalog.py."""

from __future__ import annotations

from typing import Any

from gateway import scripts
from gateway.store import translated
from jiffy.contract import aliases, keys, limits
from jiffy.contract.aliases import Alias
from jiffy.contract.errors import Conflict, InvalidRequest, NotFound

TRIES = 10  # somebody else changes them at the same time


class Aliases:
    """`client` is gateway.store.Store's. All methods raise Unavailable."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._set = client.register_script(scripts.SET_ALIASES)

    async def of(self, tenant: str, function: str) -> dict[str, Alias]:
        return aliases.read(await self._text(tenant, function))

    async def put(self, tenant: str, function: str, alias: Alias) -> None:
        """Set one; the same name is moved. Raises NotFound for a revision or function that is not there."""
        await self._change(tenant, function, alias.name, alias)

    async def remove(self, tenant: str, function: str, name: str) -> None:
        """Raises NotFound."""
        await self._change(tenant, function, name, None)

    async def _text(self, tenant: str, function: str) -> str:
        with translated():
            return (await self._client.hget(keys.function(tenant, function), "aliases") or b"").decode()

    async def _change(self, tenant: str, function: str, name: str, alias: Alias | None) -> None:
        for _ in range(TRIES):
            before = await self._text(tenant, function)
            known = aliases.read(before)
            if alias is None:
                if known.pop(name, None) is None:
                    raise NotFound(f"function {function!r} has no alias {name[:80]!r}")
            else:
                known[name] = alias
                if len(known) > aliases.ALIASES_MAX:
                    raise InvalidRequest(f"{function} has {aliases.ALIASES_MAX} aliases, as many as there may be")
            named = sorted(alias.revisions) if alias else []
            with translated():
                told = await self._set(
                    keys=[keys.function(tenant, function), keys.CHANGES],
                    args=[before, aliases.write(known.values()), function, tenant, limits.CHANGES_MAX, *named],
                )
            if told == 0:
                return
            if told > 0:
                raise NotFound(f"function {function!r} has no revision {told}; `jiffy show {function}` lists them")
            if told == GONE:
                raise NotFound(f"there is no function {function!r}")
        raise Conflict(f"the aliases of {function} are being changed by others all the time; try again")


GONE = -2  # as scripts.SET_ALIASES says
