"""The room on this host: who holds how many instances, which limits hold, and who makes way for whom. Pure.

Instances are shared out max-min fairly: while somebody waits for room, a tenant that holds more than he does starts
no further instance, and gives up one at the end of a call if it holds more by two; among functions of one tenant
likewise. So a tenant that floods is left with its share, and nobody's running call is ever ended for another's.
Turning out what is idle, and memory, are pool.py's business.
"""

from __future__ import annotations

from enum import Enum
from itertools import islice
from typing import NamedTuple

from jiffy.contract.messages import Revision

from .refusal import function_limit

LOOKED_AT = 16  # of those who wait for room, the longest waiting first: a release must not cost more than this

Name = tuple[str, str]  # tenant, function


class Scope(Enum):
    """Whose limit was reached: who could make room."""

    FUNCTION = "function"
    TENANT = "tenant"
    HOST = "host"


class Full(NamedTuple):
    """A limit that forbids one more instance."""

    scope: Scope
    why: str


class Room:
    """See the module. `short` is False as long as nobody waits for room: the hot path asks nothing else."""

    def __init__(self, instances_max: int, tenant_max: int = 0) -> None:
        self.instances_max = instances_max
        self.tenant_max = tenant_max or instances_max
        self.instances = 0
        self.short = False
        self._by_tenant: dict[str, int] = {}
        self._by_function: dict[Name, int] = {}
        self._missing: dict[Name, Scope] = {}

    @property
    def keepable(self) -> int:
        """How many more instances may be started to be kept ready, and be called by nobody: a quarter stays free."""
        return max(0, self.instances_max * 3 // 4 - self.instances)

    def full(self, revision: Revision) -> Full | None:
        """Which limit forbids one more instance of `revision`; None: there is room."""
        name = revision.tenant, revision.function
        if self._by_function.get(name, 0) >= revision.max_instances:
            return Full(Scope.FUNCTION, function_limit(revision.max_instances))
        if self._by_tenant.get(name[0], 0) >= self.tenant_max:
            why = f"tenant {name[0]} has {self.tenant_max} instances on this host, as many as it may (tenant_instances)"
            return Full(Scope.TENANT, why)
        if self.instances >= self.instances_max:
            return Full(Scope.HOST, f"this host runs {self.instances_max} instances, as many as it may (instances)")
        return None

    def behind(self, revision: Revision) -> bool:
        """Does somebody who has fewer instances wait for one, too?"""
        return self._behind((revision.tenant, revision.function), 0)

    def enter(self, revision: Revision) -> None:
        name = revision.tenant, revision.function
        self.instances += 1
        self._by_tenant[name[0]] = self._by_tenant.get(name[0], 0) + 1
        self._by_function[name] = self._by_function.get(name, 0) + 1
        if self._missing.pop(name, None):
            self.short = bool(self._missing)

    def leave(self, revision: Revision) -> None:
        name = revision.tenant, revision.function
        self.instances -= 1
        for counts, key in ((self._by_tenant, name[0]), (self._by_function, name)):
            counts[key] -= 1  # type: ignore[index]
            if not counts[key]:  # type: ignore[index]
                del counts[key]  # type: ignore[arg-type]

    def miss(self, revision: Revision, scope: Scope) -> None:
        """`revision` needs an instance and can't have it; its own limit is no business of others'."""
        if scope is not Scope.FUNCTION:
            self._missing[revision.tenant, revision.function] = scope
            self.short = True

    def ask_again(self) -> None:
        """Forget who waits for room: all are about to be asked again, neediest first."""
        self._missing.clear()
        self.short = False

    def gives_way(self, revision: Revision) -> bool:
        """Shall an instance of `revision` whose call has ended go, for somebody who has fewer?"""
        return self._behind((revision.tenant, revision.function), 1, crowded=True)

    def need(self, revision: Revision) -> tuple[int, int]:
        """What to sort by who wait for room: the neediest first."""
        name = revision.tenant, revision.function
        return self._by_tenant.get(name[0], 0), self._by_function.get(name, 0)

    def _behind(self, name: Name, less: int, *, crowded: bool = False) -> bool:
        """Does somebody who waits hold fewer than `name` would with `less`? `crowded`: only where no room is left."""
        for other, scope in islice(self._missing.items(), LOOKED_AT):
            if other == name or (crowded and not self._crowded(other[0], scope)):
                continue
            if other[0] == name[0]:
                if self._by_function.get(name, 0) - less > self._by_function.get(other, 0):
                    return True
            elif scope is Scope.HOST and self._by_tenant.get(name[0], 0) - less > self._by_tenant.get(other[0], 0):
                return True
        return False

    def _crowded(self, tenant: str, scope: Scope) -> bool:
        """Would an instance less make the room that `tenant` waits for? One that is on its way out has made it."""
        if scope is Scope.TENANT:
            return self._by_tenant.get(tenant, 0) >= self.tenant_max
        return self.instances >= self.instances_max
