"""Names of topics and their patterns."""

from __future__ import annotations

import pytest

from jiffy.contract import topics


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders", "orders", True),
        ("orders", "orders.paid", False),
        ("orders.*", "orders.paid", True),
        ("orders.*", "orders.paid.late", True),
        ("orders.*", "orders", False),
        ("*.paid", "orders.paid", True),
        ("*.paid", "orders.x.paid", False),
        ("*", "orders.paid", True),
        ("*", "dead.report.q", False),
        ("dead.*", "dead.report.q", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert topics.matches(topics.check_pattern(pattern), topics.check_name(name)) is expected


@pytest.mark.parametrize("name", ["", "Orders", "a..b", ".a", "a.", "a:b", "*", "a b", "a" * 129, "a\n", 7, None])
def test_bad_names(name: object) -> None:
    with pytest.raises(ValueError, match="a topic such as"):
        topics.check_name(name)
