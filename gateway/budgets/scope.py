"""Whose calls a budget or a quota is for: all of a tenant's, one function's, or those of functions with a tag. Pure.

As text: "tenant", "function:NAME", "tag:NAME=VALUE".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jiffy.contract import checks, spec
from jiffy.contract.errors import InvalidRequest
from jiffy.contract.messages import Revision

KEYS = ("function", "tag")
ALL = "tenant"


def parse(document: Mapping[str, Any]) -> str:
    """Raises InvalidRequest and SpecError, which say what is allowed."""
    function, tag = document.get("function"), document.get("tag")
    if function is not None and tag is not None:
        raise InvalidRequest("it is for a function or for a tag, or without both for all functions")
    if function is not None:
        return f"function:{spec.check_name(function)}"
    if tag is None:
        return ALL
    name, equals, value = tag.partition("=") if isinstance(tag, str) else ("", "", "")
    if not equals:
        raise InvalidRequest('tag must be a name and a value, such as "team=x"')
    checked("tag", checks.tags, {name: value})
    return f"tag:{name}={value}"


def covers(scope: str, tenant: str, revision: Revision) -> bool:
    """Are calls of this revision in a tenant's scope?"""
    if revision.tenant != tenant:
        return False
    kind, _, value = scope.partition(":")
    if kind == "function":
        return revision.function == value
    if kind == "tag":
        name, _, text = value.partition("=")
        return dict(revision.spec.get("tags", {})).get(name) == text
    return True


def text(scope: str) -> str:
    """For people: "all functions", "function hello", "tag team=x"."""
    kind, _, value = scope.partition(":")
    return "all functions" if kind == ALL else f"{kind} {value}"


def document(scope: str) -> dict[str, str]:
    """As it was given."""
    kind, _, value = scope.partition(":")
    return {} if kind == ALL else {kind: value}


def checked(key: str, check: Callable[[Any], Any], value: Any) -> Any:
    """The value as `check` returns it. Raises InvalidRequest, which names the key."""
    try:
        return check(value)
    except ValueError as exc:
        raise InvalidRequest(f"{key} must be {exc}") from exc
