"""Budgets and quotas, as Python calls: what may be spent and called, and what is. See docs/budgets.md.

with Client() as client:
    Budgets(client).set("shop", limit="20", per="month", tag="team=shop", hard=True)
"""

from __future__ import annotations

import json
from typing import Any

from .client import Client
from .contract import spec
from .contract.errors import NotFound


class Budgets:
    """The budgets of a platform. Exact amounts are decimal strings."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def all(self) -> list[dict[str, Any]]:
        return list(self._client.get_json("/v1/budgets")["budgets"])

    def show(self, name: str) -> dict[str, Any]:
        return self._client.get_json(_path(name))

    def set(self, name: str, **document: Any) -> dict[str, Any]:
        """limit, per ("day", "month"), function or tag, hard, warn_at, notify; returns when it is in force."""
        return self._client.put_json(_path(name), json.dumps(document).encode())

    def remove(self, name: str) -> None:
        self._client.delete(_path(name))

    def pressing(self) -> list[dict[str, Any]]:
        """Those that are close or used up; none where a platform knows no budgets."""
        try:
            return [budget for budget in self.all() if budget["state"] != "ok"]
        except NotFound:
            return []


class Quotas:
    """How many calls may come."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def all(self) -> list[dict[str, Any]]:
        return list(self._client.get_json("/v1/quotas")["quotas"])

    def show(self, name: str) -> dict[str, Any]:
        return self._client.get_json(_path(name, "quota"))

    def set(self, name: str, **document: Any) -> dict[str, Any]:
        """rate (calls a second), burst, concurrency, function or tag; returns when it is in force."""
        return self._client.put_json(_path(name, "quota"), json.dumps(document).encode())

    def remove(self, name: str) -> None:
        self._client.delete(_path(name, "quota"))


def sentence(budget: dict[str, Any]) -> str:
    """A budget that is close or used up, for people."""
    scope = f"tag {budget['tag']}" if "tag" in budget else budget.get("function") or "all functions"
    state = "used up" if budget["state"] == "used up" else f"{budget['percent']:g}% used"
    refused = "; calls are refused" if budget["hard"] and budget["state"] == "used up" else ""
    return f"Budget {budget['name']} ({scope}, per {budget['per']}) is {state}{refused} until {budget['resets']}."


def _path(name: str, what: str = "budget") -> str:
    return f"/v1/{what}s/{spec.check_name(name, what)}"
