"""Names for revisions: what may be said, how it is kept, and who gets which call."""

from __future__ import annotations

from collections import Counter

import pytest

from jiffy.contract import aliases
from jiffy.contract.errors import SpecError


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("prod=3", ((3, 100),)),
        ("canary=4:10%", ((4, 10), (0, 90))),
        ("prod=3:90%,4:10%", ((3, 90), (4, 10))),
        ("old=live:60%,4:10%", ((0, 90), (4, 10))),
    ],
)
def test_what_is_said_is_kept(text: str, shares: tuple[tuple[int, int], ...]) -> None:
    made = aliases.parse(text)
    assert made.shares == shares and sum(percent for _, percent in shares) == 100
    other = aliases.parse("other=1")
    assert aliases.read(aliases.write([made, other])) == {made.name: made, "other": other}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prod", "sets no alias"),
        ("prod=", "sets no alias"),
        ("prod=0", "sets no alias"),
        ("prod=x", "sets no alias"),
        ("3=4", "can't name an alias"),
        ("prod=3:60%,4:50%", "110%"),
        ("prod=3:0%", "from 1% to 100%"),
        ("prod=3:50%,3:50%", "twice"),
        ("prod=" + ",".join(f"{n}:1%" for n in range(1, 12)), "names 11 revisions"),
    ],
)
def test_a_mistake_says_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        aliases.parse(text)


def test_calls_are_shared_by_percent() -> None:
    canary = aliases.parse("canary=4:10%,5:20%")
    assert Counter(canary.choose(n / 1000) for n in range(1000)) == {4: 100, 5: 200, 0: 700}


def test_what_cannot_be_read_is_not_there() -> None:
    assert set(aliases.read("a=1:100;b=x:y;c=2:100")) == {"a", "c"}
