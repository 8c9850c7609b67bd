"""What a topic's schema may ask for: all that is of use, and nothing that doubles."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from gateway.triggers import schemas
from gateway.triggers.topics import validator


def doubling(levels: int) -> dict[str, Any]:
    names = [f"d{n}" for n in range(levels)]
    defs: dict[str, Any] = {
        name: {"anyOf": [{"$ref": f"#/$defs/{after}"}, {"$ref": f"#/$defs/{after}"}]} for name, after in pairwise(names)
    }
    return {"$defs": defs | {names[-1]: {"const": 1}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        {"$ref": "#/$defs/order", "$defs": {"order": {"type": "object"}}},
        {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}},
        {"$defs": {"list": {"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#/$defs/list"}}}]}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"enum": list(range(500))},
        doubling(8),
    ],
)
def test_schemas_of_use_are_taken(schema: Any) -> None:
    assert 1 <= schemas.cost(schema) <= schemas.COST_MAX
    validator(schema)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (doubling(24), "more than"),
        ({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}, "refers to itself"),
        ({"properties": {"a": {"$ref": "#"}}, "patternProperties": {".": {"$ref": "#"}}}, "refers to itself"),
        (
            {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(5000)}, "$ref": "#/$defs/d0"},
            "nothing|at most",
        ),
        ({"$ref": "https://example.com/schema"}, "a place in this schema"),
        ({"$ref": "#/$defs/none"}, "there is nothing"),
        ({"items": {"$dynamicRef": "#x"}}, "dynamicRef"),
        ({"items": {"$id": "x"}}, "whole schema"),
        ({"enum": list(range(100_000))}, "more than"),
    ],
)
def test_schemas_that_explode_are_refused(schema: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        schemas.cost(schema)
