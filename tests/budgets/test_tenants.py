"""Budgets and quotas of several tenants: each its own; what an admin set for one, only admins change."""

from __future__ import annotations

import pytest

from tests.gateway.test_tenants import Two, two

__all__ = ["two"]
pytestmark = pytest.mark.redis
BUDGET = {"limit": "0.0000001", "per": "day", "hard": True}


async def test_each_tenant_has_its_own_and_what_an_admin_set_stays(two: Two) -> None:
    assert (await two.ask("acme-read", "/v1/budgets/mine", "PUT", json=BUDGET)).status_code == 403
    assert (await two.ask("acme-deploy", "/v1/budgets/mine", "PUT", json=BUDGET | {"limit": "5"})).status_code == 200
    assert (await two.ask("globex-deploy", "/v1/budgets")).json() == {"budgets": []}
    assert (await two.ask("globex-deploy", "/v1/budgets/mine", "DELETE")).status_code == 404
    assert (await two.ask("globex-admin", "/t/acme/v1/budgets/cap", "PUT", json=BUDGET)).status_code == 200
    for method in ("PUT", "DELETE"):
        refused = await two.ask("acme-deploy", "/v1/budgets/cap", method, json=BUDGET)
        assert refused.status_code == 403 and "set by an admin" in refused.json()["error"]["message"]
    assert (await two.ask("acme-deploy", "/v1/budgets/mine", "DELETE")).status_code == 204
    assert (await two.ask("globex-admin", "/t/acme/v1/budgets/cap", "DELETE")).status_code == 204
    quota = {"rate": 0.001, "burst": 1}
    assert (await two.ask("globex-admin", "/t/acme/v1/quotas/cap", "PUT", json=quota)).status_code == 200
    assert (await two.ask("acme-deploy", "/v1/quotas/cap", "DELETE")).status_code == 403
    assert (await two.ask("globex-read", "/v1/quotas")).json() == {"quotas": []}
    assert (await two.ask("acme-invoke", "/function/shop")).status_code == 200
    assert (await two.ask("acme-invoke", "/function/shop")).status_code == 429
