"""A gateway, an invoker over twins, and budgets set over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.durable.conftest import Pair, pair

__all__ = ["pair"]

Set = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def put(pair: Pair) -> Set:
    """``await put("name", limit="1.00", per="day", …)``: a budget that is in force."""

    async def put(name: str, **document: Any) -> dict[str, Any]:
        answer = await pair.http.put(f"/v1/budgets/{name}", json={"per": "day"} | document)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return put


async def show(pair: Pair, name: str) -> dict[str, Any]:
    answer = await pair.http.get(f"/v1/budgets/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
