"""EventBridge's patterns, by the examples of its documentation, and that no pattern makes matching slow."""

from __future__ import annotations

from fnmatch import translate
from re import compile as regex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy.contract import patterns

EVENT = {
    "type": "order.paid",
    "source": "/shop",
    "tags": ["new", "eu"],
    "empty": None,
    "data": {"amount": 120, "customer": {"name": "Ada", "ip": "10.0.0.17"}, "lines": [{"sku": "a"}, {"sku": "b"}]},
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({}, True),
        ({"type": ["order.paid"]}, True),
        ({"type": ["order.made", "order.paid"]}, True),
        ({"type": ["order.paid"], "source": ["/bank"]}, False),
        ({"tags": ["eu"]}, True),
        ({"tags": ["us"]}, False),
        ({"empty": [None]}, True),
        ({"type": [None]}, False),
        ({"data": {"amount": [120.0]}}, True),
        ({"data": {"amount": ["120"]}}, False),
        ({"data": {"amount": [True]}}, False),
        ({"data": {"amount": [{"numeric": [">", 100, "<=", 120]}]}}, True),
        ({"data": {"amount": [{"numeric": [">", 120]}]}}, False),
        ({"type": [{"numeric": [">", 0]}]}, False),
        ({"type": [{"prefix": "order."}]}, True),
        ({"type": [{"prefix": {"equals-ignore-case": "ORDER"}}]}, True),
        ({"type": [{"suffix": ".paid"}]}, True),
        ({"type": [{"equals-ignore-case": "ORDER.PAID"}]}, True),
        ({"type": [{"wildcard": "order.*"}]}, True),
        ({"type": [{"wildcard": "*.p*d"}]}, True),
        ({"type": [{"wildcard": "*.m*d"}]}, False),
        ({"type": [{"anything-but": "order.made"}]}, True),
        ({"type": [{"anything-but": ["order.made", "order.paid"]}]}, False),
        ({"type": [{"anything-but": {"prefix": "order"}}]}, False),
        ({"missing": [{"anything-but": "x"}]}, False),
        ({"missing": [{"exists": False}]}, True),
        ({"type": [{"exists": True}]}, True),
        ({"missing": [{"exists": True}]}, False),
        ({"missing": {"deep": [{"exists": False}]}}, True),
        ({"data": {"customer": {"ip": [{"cidr": "10.0.0.0/24"}]}}}, True),
        ({"data": {"customer": {"ip": [{"cidr": "10.1.0.0/24"}]}}}, False),
        ({"data": {"lines": {"sku": ["b"]}}}, True),
        ({"$or": [{"type": ["x"]}, {"source": ["/shop"]}]}, True),
        ({"$or": [{"type": ["x"]}, {"source": ["/bank"]}]}, False),
    ],
)
def test_matching(pattern: dict[str, Any], expected: bool) -> None:
    assert patterns.matches(patterns.check(pattern), EVENT) is expected


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("order.paid", "a table such as"),
        ({"type": "order.paid"}, "type: a list of what may stand there"),
        ({"type": []}, "type: a list"),
        ({"type": [{"prefx": "a"}]}, "unknown rule 'prefx'; one of prefix"),
        ({"data": {"amount": [{"numeric": [">", "1"]}]}}, "data.amount: numeric takes such as"),
        ({"a": [{"wildcard": "x**"}]}, 'a text with single "*"'),
        ({"a": [{"cidr": "10.0.0.1/99"}]}, "a network"),
        ({"a": [{"exists": "yes"}]}, "true or false"),
        ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "one of prefix"),
        ({"$or": {"a": [1]}}, "a list of tables"),
        ({"a": [{"numeric": [[">"], 0]}]}, "numeric takes such as"),
        ({"a": ["\ud800"]}, "texts, numbers"),
    ],
)
def test_a_mistake_names_its_place(pattern: Any, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        patterns.check(pattern)
    assert part in str(caught.value)


@given(st.text("ab*", max_size=8).filter(lambda t: "**" not in t), st.text("ab", max_size=12))
def test_wildcards_match_as_in_a_shell(pattern: str, text: str) -> None:
    assert patterns.matches({"x": [{"wildcard": pattern}]}, {"x": text}) is bool(
        regex(translate(pattern)).fullmatch(text)
    )


def test_no_wildcard_makes_matching_slow() -> None:
    """A pattern that backtracks would not end within the test's time limit."""
    assert not patterns.matches({"x": [{"wildcard": "*a" * 40 + "*c"}]}, {"x": "a" * 5_000 + "b"})


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ({"x": list(range(1, 11))}, [0] * 2_000_000),
        ({"x": [{"prefix": "a"}]}, ["b"] * 300_000),
        ({"x": [{"equals-ignore-case": "a"}] * 500}, "b" * 1_000_000),
        ({"x": {"y": [{"exists": False}]}}, [{"y": 1}] * 300_000),
        ({"x": [{"anything-but": [str(n) for n in range(1000)]}] * 2}, ["0"] * 1000),
    ],
)
def test_an_event_with_too_many_parts_is_given_up(pattern: dict[str, Any], found: Any) -> None:
    with pytest.raises(patterns.TooMuch):
        patterns.matches(patterns.check(pattern), {"x": found})


def test_plain_values_are_found_among_many_at_once() -> None:
    many: list[Any] = [{}, [], True, "1", 0.5] * 20_000
    assert patterns.matches({"x": [*range(2, 1000), 1]}, {"x": [*many, 1.0]})
    assert not patterns.matches({"x": [*range(2, 1000), 1]}, {"x": many})
