"""EventBridge's event patterns: does an event match? Pure. The same words mean the same as on AWS.

    { type = ["order.paid"], data = { amount = [{ numeric = [">", 100] }] } }

A pattern is a table of the event's; its leaves are lists of what may stand there. A list in the event matches when one
of its items does. Source: docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import Any

DEEP_MAX = 16
_COMPARE: dict[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, "=": eq, ">": gt, ">=": ge}
_MISSING = object()
WORK_MAX = 200_000  # comparisons for one event, 64 characters of a text each: about a tenth of a second


class TooMuch(Exception):
    """An event has too many parts for a pattern."""


class _Work:
    """What is left of WORK_MAX."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = WORK_MAX

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise TooMuch(f"more than {WORK_MAX} comparisons")


def check(pattern: Any) -> dict[str, Any]:
    """`pattern` if it is one. Raises ValueError with what is allowed."""
    if not isinstance(pattern, Mapping):
        raise ValueError('a table such as { type = ["order.paid"] }')
    try:
        regular: dict[str, Any] = json.loads(
            json.dumps(pattern, ensure_ascii=False).encode()
        )  # what comes by the wire has tuples for lists
    except (TypeError, ValueError, RecursionError):
        raise ValueError("texts, numbers, true, false, tables and lists of them") from None
    _check_table(regular, "", 0)
    return regular


def matches(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Does `event` match a checked `pattern`? An empty one matches everything. Raises TooMuch."""
    return _matches(pattern, event, _Work())


def _matches(pattern: Mapping[str, Any], event: Mapping[str, Any], work: _Work) -> bool:
    work.spend(1 + len(pattern))
    for key, wanted in pattern.items():
        if key == "$or":
            if not any(_matches(one, event, work) for one in wanted):
                return False
            continue
        found = event.get(key, _MISSING)
        if isinstance(wanted, Mapping):
            tables = found if isinstance(found, list) else [found]
            if not any(_matches(wanted, one if isinstance(one, Mapping) else {}, work) for one in tables):
                return False
        elif not _leaf(wanted, found, work):
            return False
    return True


def _leaf(wanted: list[Any], found: Any, work: _Work) -> bool:
    values = found if isinstance(found, list) and found else [_MISSING if isinstance(found, list) else found]
    rules = [rule for rule in wanted if isinstance(rule, Mapping)]
    if len(rules) < len(wanted):
        work.spend((len(wanted) + len(values)) // 8)
        plain = {_plain(rule) for rule in wanted if not isinstance(rule, Mapping)}
        if any(_plain(value) in plain for value in values):
            return True
    for rule in rules:
        weight = _weight(rule)
        for value in values:
            work.spend(weight * (1 + len(value) // 64) if isinstance(value, str) else weight)
            if _one(rule, value):
                return True
    return False


def _plain(value: Any) -> tuple[str, Any]:
    """What is the same as what: true is not 1, but 1.0 is."""
    if value is None or isinstance(value, (bool, str)):
        return type(value).__name__, value
    return ("number", value) if _number(value) else ("", None)


def _weight(rule: Mapping[str, Any]) -> int:
    """How many looks at a value a rule takes: each text of a list, and each star."""
    return sum(
        (len(argument) if isinstance(argument, (list, Mapping)) else 1)
        + str(argument).count("*")
        + str(argument).count(",")
        for argument in rule.values()
    )


def _one(rule: Mapping[str, Any], value: Any) -> bool:
    return all(_RULES[name][1](argument, value) for name, argument in rule.items())


def _same(rule: Any, value: Any) -> bool:
    return (type(rule) is type(value) and rule == value) or (_number(rule) and _number(value) and rule == value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- rules: how each is checked, and how it matches -----------------------------------------------------------


def _texts(argument: Any) -> list[str]:
    found = argument if isinstance(argument, list) else [argument]
    if not found or not all(isinstance(one, str) for one in found):
        raise ValueError("a text, or a list of texts")
    return found


def _text(argument: Any) -> None:
    if not isinstance(argument, str):
        raise ValueError("a text")


def _affix(argument: Any) -> None:
    if not isinstance(argument, str) and not (
        isinstance(argument, Mapping)
        and list(argument) == ["equals-ignore-case"]
        and isinstance(argument["equals-ignore-case"], str)
    ):
        raise ValueError('a text, or { equals-ignore-case = "…" }')


def _affixed(argument: Any, value: Any, method: str) -> bool:
    if not isinstance(value, str):
        return False
    if isinstance(argument, str):
        return bool(getattr(value, method)(argument))
    return bool(getattr(value.casefold(), method)(argument["equals-ignore-case"].casefold()))


def _numeric(argument: Any) -> None:
    if not isinstance(argument, list) or len(argument) not in (2, 4):
        raise ValueError('such as [">", 0, "<=", 5]')
    for sign, bound in zip(argument[::2], argument[1::2], strict=True):
        if not isinstance(sign, str) or sign not in _COMPARE or not _number(bound):
            raise ValueError('such as [">", 0, "<=", 5]')


def _is_numeric(argument: list[Any], value: Any) -> bool:
    return _number(value) and all(
        _COMPARE[sign](value, bound) for sign, bound in zip(argument[::2], argument[1::2], strict=True)
    )


def _exists(argument: Any) -> None:
    if not isinstance(argument, bool):
        raise ValueError("true or false")


_BUT = ("prefix", "suffix", "equals-ignore-case", "wildcard")


def _anything_but(argument: Any) -> None:
    if isinstance(argument, Mapping):
        if len(argument) != 1 or next(iter(argument)) not in _BUT:
            raise ValueError(f"a value, a list of values, or one of {', '.join(_BUT)}")
        name, inner = next(iter(argument.items()))
        for text in _texts(inner):
            _RULES[name][0](text)
    elif not all(
        isinstance(one, (str, int, float)) for one in (argument if isinstance(argument, list) else [argument])
    ):
        raise ValueError("a value, or a list of values")


def _is_anything_but(argument: Any, value: Any) -> bool:
    if value is _MISSING:
        return False
    if isinstance(argument, Mapping):
        name, inner = next(iter(argument.items()))
        return not any(_RULES[name][1](text, value) for text in _texts(inner))
    return not any(_same(one, value) for one in (argument if isinstance(argument, list) else [argument]))


def _wildcard(argument: Any) -> None:
    _text(argument)
    if "**" in argument:
        raise ValueError('a text with single "*"')


@lru_cache(maxsize=1024)
def _star(text: str) -> re.Pattern[str]:
    """Stars as lazy gaps in atomic groups: no text makes the match take longer than its length times the stars."""
    first, *rest = (re.escape(part) for part in text.split("*"))
    if not rest:
        return re.compile(first)
    *middle, last = rest
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}", re.DOTALL)


def _cidr(argument: Any) -> None:
    _text(argument)
    try:
        ipaddress.ip_network(argument)
    except ValueError:
        raise ValueError('a network such as "10.0.0.0/24"') from None


def _is_in(argument: str, value: Any) -> bool:
    try:
        return isinstance(value, str) and ipaddress.ip_address(value) in ipaddress.ip_network(argument)
    except ValueError:
        return False


_RULES: dict[str, tuple[Callable[[Any], object], Callable[[Any, Any], bool]]] = {
    "prefix": (_affix, lambda argument, value: _affixed(argument, value, "startswith")),
    "suffix": (_affix, lambda argument, value: _affixed(argument, value, "endswith")),
    "equals-ignore-case": (
        _text,
        lambda argument, value: isinstance(value, str) and value.casefold() == argument.casefold(),
    ),
    "wildcard": (
        _wildcard,
        lambda argument, value: isinstance(value, str) and _star(argument).fullmatch(value) is not None,
    ),
    "anything-but": (_anything_but, _is_anything_but),
    "numeric": (_numeric, _is_numeric),
    "exists": (_exists, lambda argument, value: (value is not _MISSING) is argument),
    "cidr": (_cidr, _is_in),
}


def _check_table(pattern: Mapping[str, Any], where: str, depth: int) -> None:
    if depth > DEEP_MAX:
        raise ValueError(f"at most {DEEP_MAX} tables deep")
    for key, wanted in pattern.items():
        place = f"{where}.{key}" if where else str(key)
        if key == "$or":
            if not isinstance(wanted, list) or not wanted or not all(isinstance(one, Mapping) for one in wanted):
                raise ValueError(f"{place}: a list of tables")
            for one in wanted:
                _check_table(one, place, depth + 1)
        elif isinstance(wanted, Mapping):
            _check_table(wanted, place, depth + 1)
        elif isinstance(wanted, list) and wanted:
            for rule in wanted:
                _check_rule(rule, place)
        else:
            raise ValueError(f'{place}: a list of what may stand there, such as ["order.paid"]')


def _check_rule(rule: Any, place: str) -> None:
    if not isinstance(rule, Mapping):
        if rule is not None and not isinstance(rule, (str, int, float)):
            raise ValueError(f"{place}: texts, numbers, true, false, or one of {', '.join(_RULES)}")
        return
    for name, argument in rule.items():
        if name not in _RULES:
            raise ValueError(f"{place}: unknown rule {name!r:.40}; one of {', '.join(_RULES)}")
        try:
            _RULES[name][0](argument)
        except ValueError as exc:
            raise ValueError(f"{place}: {name} takes {exc}") from None
