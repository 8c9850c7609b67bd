"""How much work is it to hold a value against a JSON Schema? Bounded before a topic takes the schema. Pure.

A schema of forty lines can ask for 2^40 looks at one value, when each definition refers twice to the next. So its
references are unfolded on paper: `cost` is how many schemas one value may be held against. Recursive ones are taken
where each step goes one level down in the value, and once: what branches at the same place grows without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COST_MAX = 10_000
DEEP_MAX = 100  # tables and references within each other
_ONE = (
    *("not", "if", "then", "else", "items", "contains", "propertyNames"),
    *("additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_TABLES = ("properties", "patternProperties", "dependentSchemas", "dependencies")
_ELSEWHERE = ("$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor")
# A part of a value is held against one of these: they don't multiply.
_DOWN = {"properties": "down", "additionalProperties": "down", "items": "down", "prefixItems": "down"}


def cost(schema: Any) -> int:
    """How many schemas a value is held against at each of its places, at most. Raises ValueError: too many, or what."""
    return _Unfolding(schema).cost


class _Unfolding:
    """Tarjan's strongly connected components: each is done when all that it refers to is."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._index: dict[int, int] = {}
        self._low: dict[int, int] = {}
        self._stack: list[dict[str, Any]] = []
        self._costs: dict[int, int] = {}
        self.cost = self._visit(root, 0) if isinstance(root, dict) else 1

    def _visit(self, schema: dict[str, Any], deep: int) -> int:
        if deep > DEEP_MAX:
            raise ValueError(f"at most {DEEP_MAX} schemas and references within each other")
        me = id(schema)
        self._index[me] = self._low[me] = len(self._index)
        self._stack.append(schema)
        for _, part in self._parts(schema):
            if id(part) not in self._index:
                self._visit(part, deep + 1)
                self._low[me] = min(self._low[me], self._low[id(part)])
            elif id(part) not in self._costs:
                self._low[me] = min(self._low[me], self._index[id(part)])
        if self._low[me] == self._index[me]:
            self._close(me)
        return self._costs.get(me, 0)

    def _close(self, first: int) -> None:
        members: list[dict[str, Any]] = []
        while not members or id(members[-1]) != first:
            members.append(self._stack.pop())
        own = {id(member) for member in members}
        total = 0
        for member in members:
            parts = list(self._parts(member))
            again = [_DOWN.get(kind, f"{kind} {n}") for n, (kind, part) in enumerate(parts) if id(part) in own]
            if len(set(again)) > 1:
                raise ValueError("what refers to itself may do so by properties or items, or once by something else")
            factor = 2 if {"unevaluatedItems", "unevaluatedProperties"} & set(member) else 1
            words = len(member["enum"]) if isinstance(member.get("enum"), list) else 0
            total += 1 + words + factor * sum(self._costs[id(part)] for _, part in parts if id(part) not in own)
        if total > COST_MAX:
            raise ValueError(f"a value would be held against more than {COST_MAX} schemas, its references unfolded")
        self._costs.update(dict.fromkeys(own, total))

    def _parts(self, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The schemas that a value, or a part of it, is held against because of this one."""
        for key in _ELSEWHERE:
            if key in schema:
                raise ValueError(f'{key} is not taken; refer by "$ref": "#/$defs/…"')
        if "$id" in schema and schema is not self._root:
            raise ValueError("$id is for the whole schema only")
        if "$ref" in schema:
            yield from _tables("$ref", [self._target(schema["$ref"])])
        for key in _ONE:
            yield from _tables(key, [schema.get(key)])
        for key in _LISTS:
            found = schema.get(key)
            yield from _tables(key, found if isinstance(found, list) else [])
        for key in _TABLES:
            found = schema.get(key)
            yield from _tables(key, list(found.values()) if isinstance(found, dict) else [])

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or reference[:1] != "#" or reference[1:2] not in ("", "/"):
            raise ValueError(f'$ref = {reference!r:.80}; allowed: a place in this schema, such as "#/$defs/order"')
        found = self._root
        for part in reference[2:].split("/") if len(reference) > 1 else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if "%" in name:
                raise ValueError(f'$ref = {reference!r:.80}; allowed: names without "%"')
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (LookupError, TypeError, ValueError):
                raise ValueError(f"$ref = {reference!r:.80}: there is nothing") from None
        return found


def _tables(kind: str, found: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in found:
        if isinstance(one, dict):
            yield kind, one
