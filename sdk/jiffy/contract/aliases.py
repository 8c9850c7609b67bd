"""``"prod"``: a movable, weighted name for revisions of one function. Pure.

A function's aliases stand together in one field of its hash, as text: ``canary=4:10,0:90;prod=3:100`` is ten calls of a
hundred to revision 4 and the others to whichever is live, and all to revision 3. So they change in one step, and
whoever may remove revisions sees at once which are named (builder/store.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .errors import SpecError
from .spec import check_name

LIVE = 0  # stands for the live revision
ALL = 100  # percent
ALIASES_MAX = 20  # per function
SHARES_MAX = 10  # per alias: a gateway holds each revision that is named
_SHARE = re.compile(r"([1-9][0-9]{0,8}|live)(?::([0-9]{1,3})%)?")


class Alias(NamedTuple):
    """One alias. What its shares leave of 100 goes to the live revision, and stands there as LIVE."""

    name: str
    shares: tuple[tuple[int, int], ...]  # (revision, percent); together ALL

    def choose(self, chance: float) -> int:
        """The revision of one call, for `chance` from 0 to below 1."""
        left = chance * ALL
        for revision, percent in self.shares:
            left -= percent
            if left < 0:
                return revision
        return self.shares[-1][0]

    @property
    def revisions(self) -> set[int]:
        """That are named."""
        return {revision for revision, _ in self.shares} - {LIVE}


def make(name: object, weights: Mapping[int, int]) -> Alias:
    """`weights`: revision (LIVE for the live one) → percent. Raises SpecError."""
    name = check_name(name, "alias")
    if not 0 < len(weights) <= SHARES_MAX:
        raise SpecError(f"alias {name!r} names {len(weights)} revisions; allowed: 1 to {SHARES_MAX}")
    if any(not 0 < percent <= ALL for percent in weights.values()):
        raise SpecError(f"alias {name!r}: each share is from 1% to 100%")
    total = sum(weights.values())
    if total > ALL:
        raise SpecError(
            f"alias {name!r}: its shares are {total}% together; at most 100%, and the live one has the rest"
        )
    shares = dict(weights)
    if total < ALL:
        shares[LIVE] = shares.get(LIVE, 0) + ALL - total
    return Alias(name, tuple(shares.items()))


def parse(text: str) -> Alias:
    """``prod=3``, ``canary=4:10%`` (the rest to the live revision), ``prod=3:90%,4:10%``. Raises SpecError."""
    name, given, listed = text.partition("=")
    weights: dict[int, int] = {}
    for share in listed.split(","):
        match = _SHARE.fullmatch(share.strip())
        if not given or match is None:
            raise SpecError(f"{text[:80]!r} sets no alias; write prod=3, canary=4:10% or prod=3:90%,4:10%")
        revision = LIVE if match[1] == "live" else int(match[1])
        if revision in weights:
            raise SpecError(f"{text[:80]!r} names a revision twice")
        weights[revision] = int(match[2] or ALL)
    return make(name, weights)


def read(text: str) -> dict[str, Alias]:
    """As they stand in a function's hash, by name. What can't be read is not there."""
    found: dict[str, Alias] = {}
    for one in filter(None, text.split(";")):
        name, _, listed = one.partition("=")
        pairs = [share.partition(":")[::2] for share in listed.split(",")]
        if all(a.isdecimal() and b.isdecimal() for a, b in pairs):
            found[name] = Alias(name, tuple((int(a), int(b)) for a, b in pairs))
    return found


def write(aliases: Iterable[Alias]) -> str:
    """The text that `read` takes."""
    listed = [(one.name, ",".join(f"{number}:{percent}" for number, percent in one.shares)) for one in sorted(aliases)]
    return ";".join(f"{name}={shares}" for name, shares in listed)
