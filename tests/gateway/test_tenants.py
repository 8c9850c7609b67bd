"""Two tenants on one platform: neither sees, calls or guesses what is the other's, a key does what its role says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.keyring import Keyring
from jiffy.contract import edges, triggers, wire
from jiffy.contract.access import ALLOWS, Role, digest
from jiffy.contract.errors import SpecError
from jiffy.contract.messages import Call, Revision
from tests.gateway.conftest import Served, serving
from tests.gateway.fake_invoker import FakeInvoker, builder_beat, publish, running
from tests.gateway.test_calls import event_of

pytestmark = pytest.mark.redis
OWN = "the-platforms-own"
TICK = {"type": "schedule", "name": "tick", "cron": "@yearly"}


class Two(NamedTuple):
    """A gateway of two tenants. `acme` has functions, `globex` none; each key is its name."""

    served: Served
    invoker: FakeInvoker
    file: Path

    async def ask(self, key: str, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        headers = {"x-api-key": key} if key else {}
        return await self.served.http.request(method, path, headers=headers | request.pop("headers", {}), **request)


def entry(name: str, tenant: str, role: str) -> str:
    return f'[keys.{name}]\ntenant = "{tenant}"\nrole = "{role}"\nkey_sha256 = "{digest(name)}"\n'


@pytest.fixture
async def two(redis_url: str, data_dir: Path) -> AsyncIterator[Two]:
    file = data_dir / "keys.toml"
    names = [(tenant, role) for tenant in ("acme", "globex") for role in Role]
    file.write_text("".join(entry(f"{tenant}-{role}", tenant, role) for tenant, role in names))
    await builder_beat(redis_url)
    await publish(redis_url, "shop", tenant="acme", routes=("GET /shop",), env={"SECRET": "s3same"})
    await publish(redis_url, "open", tenant="acme", routes=("GET /open/{id}",), public=True)
    async with running(redis_url) as invoker, serving(redis_url, data_dir, OWN, keys=file) as served:
        yield Two(served, invoker, file)


CROSSED = [
    ("GET", "/function/shop"),
    ("GET", "/shop"),
    ("GET", "/open/7"),
    ("POST", "/v1/functions/shop/invocations"),
    ("POST", "/v1/functions/shop/invocations?mode=async"),
    ("GET", "/v1/functions/shop"),
    ("DELETE", "/v1/functions/shop"),
    ("POST", "/v1/functions/shop/live"),
    ("GET", "/v1/functions/shop/logs"),
    ("GET", "/v1/triggers/shop/tick"),
    ("POST", "/v1/triggers/shop/tick/fire"),
    ("POST", "/v1/triggers/shop/tick/pause"),
    ("GET", "/v1/costs/estimate/shop"),
    ("GET", "/t/acme/function/shop"),
    ("GET", "/t/acme/shop"),
    ("GET", "/t/acme/v1/functions"),
    ("GET", "/t/acme/v1/functions/shop"),
    ("DELETE", "/t/acme/v1/functions/shop"),
    ("POST", "/t/acme/v1/functions/shop/invocations"),
]


@pytest.mark.parametrize(("method", "path"), CROSSED)
async def test_what_is_another_tenants_is_not_there(two: Two, method: str, path: str) -> None:
    theirs = await two.ask("globex-deploy", path, method)
    nowhere = await two.ask("globex-deploy", path.replace("shop", "nosuch").replace("acme", "nobody"), method)
    assert theirs.status_code == nowhere.status_code == 404
    told, expected = (one.text.replace("shop", "X").replace("nosuch", "X") for one in (theirs, nowhere))
    assert told == expected, "an answer that differs is a hint"
    assert two.invoker.calls == []
    assert (await two.ask("acme-deploy", "/v1/functions/shop")).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/functions", "functions"), ("/v1/triggers", "triggers"), ("/v1/dlq", "letters"), ("/v1/topics", "topics")],
)
async def test_lists_hold_only_ones_own(two: Two, redis_url: str, path: str, field: str) -> None:
    await publish(redis_url, "nightly", tenant="acme", spec={"triggers": list(triggers.check([TICK]))})
    await two.served.gateway.catalog.resync()
    await two.ask("acme-deploy", "/v1/topics/orders/events", "POST", json={}, headers=EVENT)
    assert (await two.ask("globex-deploy", path)).json()[field] == []
    if field != "letters":
        assert len((await two.ask("acme-deploy", path)).json()[field]) >= 1
        assert len((await two.ask("globex-admin", f"/t/acme{path}")).json()[field]) >= 1


EVENT = {"ce-specversion": "1.0", "ce-type": "order", "ce-source": "/shop", "ce-id": "1"}


async def test_a_topic_of_the_same_name_is_another_one(two: Two) -> None:
    for n in range(2):
        sent = await two.ask(
            "acme-invoke", "/v1/topics/orders/events", "POST", json={}, headers=EVENT | {"ce-id": f"{n}"}
        )
        assert sent.status_code == 202
    assert (await two.ask("globex-read", "/v1/topics/orders")).status_code == 404
    assert (await two.ask("globex-deploy", "/v1/topics/orders", "PUT", json={"keep_s": 60})).status_code == 200
    assert (await two.ask("globex-read", "/v1/topics/orders/events")).json()["events"] == []
    assert (await two.ask("globex-deploy", "/v1/topics/orders", "DELETE")).status_code == 204
    assert len((await two.ask("acme-read", "/v1/topics/orders/events")).json()["events"]) == 2


async def test_a_budget_is_its_tenants(two: Two) -> None:
    path = "/v1/budgets/monthly"
    assert (await two.ask("acme-deploy", path, "PUT", json={"limit": "5.00", "per": "month"})).status_code == 200
    assert (await two.ask("globex-read", "/v1/budgets")).json()["budgets"] == []
    for method in ("GET", "DELETE"):
        assert (await two.ask("globex-admin", path, method)).status_code == 404
    assert (await two.ask("acme-read", path)).json()["name"] == "monthly"


@pytest.mark.parametrize(
    ("key", "status"), [("acme-invoke", 200), ("acme-read", 403), ("globex-admin", 404), ("", 401)]
)
async def test_an_http_trigger_is_its_tenants(two: Two, redis_url: str, key: str, status: int) -> None:
    declared = triggers.check([{"type": "http", "path": "/edge", "etag": True}])
    routes = edges.every_route((), declared)
    await publish(redis_url, "edgy", tenant="acme", routes=routes, spec={"triggers": list(declared)})
    await two.served.gateway.catalog.resync()
    own = key.startswith("acme")
    assert (await two.ask(key, "/t/acme/edge")).status_code == (200 if key == "globex-admin" else status)
    assert (await two.ask(key, "/edge")).status_code == status
    assert bool(two.invoker.calls) == ((own and status == 200) or key == "globex-admin")


async def test_results_logs_and_the_bill_are_the_callers_tenants(two: Two) -> None:
    queued = await two.ask("acme-invoke", "/v1/functions/shop/invocations?mode=async", "POST", json={"n": 1})
    waited = await two.ask("acme-invoke", "/function/shop")
    for invocation in (queued.json()["invocation"], waited.headers["jiffy-invocation-id"]):
        path = f"/v1/invocations/{invocation}"
        assert (await two.ask("globex-admin", path)).status_code == 404
        assert (await two.ask("globex-deploy", path, "DELETE")).status_code == 404
        assert (await two.ask("acme-invoke", path)).status_code == 200
    assert len((await two.ask("acme-read", "/v1/usage")).json()["rows"]) == 2
    assert (await two.ask("globex-read", "/v1/usage")).json()["rows"] == []
    assert (await two.ask("globex-read", "/v1/usage?by=function&function=shop")).json()["rows"] == []
    assert (await two.ask("globex-deploy", "/v1/usage?by=tenant")).status_code == 403
    assert len((await two.ask("globex-admin", "/v1/usage?by=tenant")).json()["rows"]) == 1
    month = (await two.ask("globex-read", "/v1/usage?by=month")).json()
    assert month["total"]["calls"] == 0


async def test_the_same_idempotency_key_of_two_tenants_is_two_calls(two: Two, redis_url: str) -> None:
    await publish(redis_url, "shop", tenant="globex")
    await two.served.gateway.catalog.resync()
    once = {"idempotency-key": "order-7"}
    path = "/v1/functions/shop/invocations?mode=async"
    answers = [await two.ask(f"{who}-invoke", path, "POST", headers=once) for who in ("acme", "globex", "acme")]
    first, other, again = (answer.json()["invocation"] for answer in answers)
    assert first == again != other


async def test_sources_and_builds_are_their_uploaders(two: Two) -> None:
    archive = b"a source"
    from_acme = f"/v1/sources/{digest(archive.decode())}"
    assert (await two.ask("acme-deploy", from_acme, "PUT", content=archive)).status_code == 201
    assert (await two.ask("globex-deploy", from_acme, "HEAD")).status_code == 404
    asked = {"spec": {"handler": "app:handler"}, "source": f"sha256:{digest(archive.decode())}"}
    assert (await two.ask("globex-deploy", "/v1/functions/stolen", "PUT", json=asked)).status_code == 409
    queued = await two.ask("acme-deploy", "/v1/functions/mine", "PUT", json=asked)
    events = queued.headers["location"]
    assert (await two.ask("globex-admin", events)).status_code == 404


async def test_secrets_of_callbacks_differ(two: Two) -> None:
    path = "/v1/callback-secret"
    secrets = {(await two.ask(key, path)).json()["secret"] for key in ("acme-deploy", "globex-deploy", OWN)}
    assert len(secrets) == 3


# --- whose paths -----------------------------------------------------------------------------------------------------


async def test_each_tenant_has_paths_of_its_own(two: Two, redis_url: str) -> None:
    await publish(redis_url, "mine", tenant="globex", routes=("GET /shop", "GET /open/{id}"))
    await publish(redis_url, "plain", routes=("GET /shop",))
    await two.served.gateway.catalog.resync()
    for key, path in (("acme-invoke", "/shop"), ("globex-invoke", "/shop"), (OWN, "/shop"), (OWN, "/t/acme/shop")):
        assert (await two.ask(key, path)).status_code == 200, (key, path)
    assert [_tenant(call) for call in two.invoker.calls] == ["acme", "globex", "default", "acme"]
    assert event_of(two.invoker.calls[-1])["rawPath"] == "/shop"


@pytest.mark.parametrize("path", ["/t/acme/function/open", "/t/acme/function/open/x", "/t/acme/open/7"])
async def test_a_public_function_is_called_under_its_tenants_path(two: Two, path: str) -> None:
    for key in ("", "theirs", "globex-read", "acme-read"):
        assert (await two.ask(key, path)).status_code == 200
    seen = [event_of(call)["headers"].get("x-api-key") for call in two.invoker.calls]
    assert seen == [None, "theirs", None, None], "no function learns a key of the platform"
    assert not event_of(two.invoker.calls[0])["rawPath"].startswith("/t/")


@pytest.mark.parametrize(
    "path",
    [
        "/function/open",
        "/open/7",
        "/t/acme/function/shop",
        "/t/nobody/function/open",
        "/t/acme/v1/functions",
        "/t/acme/",
    ],
)
async def test_without_a_key_nothing_else_opens(two: Two, path: str) -> None:
    assert (await two.ask("", path)).status_code == 401
    assert (await two.ask("wrong", path)).status_code == 401


@pytest.mark.parametrize("path", ["/t", "/t/", "/t/..%2fv1/functions", "/t/ac%6De/v1/functions", "/t/ACME/shop"])
async def test_paths_of_no_tenant_are_nowhere(two: Two, path: str) -> None:
    assert (await two.ask(OWN, path)).status_code == 404


# --- roles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
async def test_a_key_does_what_its_role_says_and_no_more(two: Two, role: Role) -> None:
    assert (await two.ask(f"acme-{role}", "/v1/usage")).is_success == (Role.READ in ALLOWS[role])
    for endpoint in two.served.gateway.endpoints:
        if endpoint.open or endpoint.handler is None:
            continue
        answer = await two.ask(f"acme-{role}", re.sub(r"\{[\w:]+\}", "x", endpoint.path), endpoint.method)
        assert (answer.status_code == 403) == (endpoint.needs not in ALLOWS[role]), (endpoint.method, endpoint.path)


@pytest.mark.parametrize("role", list(Role))
async def test_who_may_call(two: Two, role: Role) -> None:
    expected = 200 if Role.INVOKE in ALLOWS[role] else 403
    for method, path in (("GET", "/function/shop"), ("GET", "/shop"), ("POST", "/v1/functions/shop/invocations")):
        answer = await two.ask(f"acme-{role}", path, method)
        assert answer.status_code == expected, path
        if expected == 403:
            assert "role invoke or deploy or admin" in answer.json()["error"]["message"]


async def test_values_of_the_environment_are_for_who_deploys(two: Two) -> None:
    assert (await two.ask("acme-deploy", "/v1/functions/shop")).json()["env"] == {"SECRET": "s3same"}
    shown = await two.ask("acme-read", "/v1/functions/shop")
    assert list(shown.json()["env"]) == ["SECRET"]
    assert "s3same" not in shown.text


async def test_hosts_and_what_others_pay_are_for_admins(two: Two) -> None:
    assert (await two.ask("acme-read", "/v1/status")).json()["invokers"] == []
    assert (await two.ask("acme-read", "/v1/status")).json()["functions"] == 2
    assert len((await two.ask("acme-admin", "/v1/status")).json()["invokers"]) == 1
    book = """
        currency = "USD"
        [[book]]
        version = 2
        effective_from = 2030-01-01T00:00:00Z
        per_gb_second = "0.00001"
        per_call = "0.0000002"
        [book.tenants.acme]
        per_call = "0.0000001"
        [book.tenants.globex]
        per_call = "0.0000003"
    """
    published = await two.ask(OWN, "/v1/prices", "POST", content=book)
    assert published.status_code == 200, published.text
    for key, tenants in (("acme-read", {"acme"}), ("globex-deploy", {"globex"}), (OWN, {"acme", "globex"})):
        for document in ((await two.ask(key, "/v1/prices")).json()["books"][-1],):
            assert set(document["tenants"]) == tenants
        assert set((await two.ask(key, "/v1/prices/2")).json()["tenants"]) == tenants


# --- the file --------------------------------------------------------------------------------------------------------


async def test_keys_come_and_go_while_the_gateway_runs(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    async def answers(key: str, status: int) -> None:
        async with asyncio.timeout(10):
            while (await two.ask(key, "/v1/functions")).status_code != status:
                pass

    before = two.file.read_text()
    two.file.write_text(before + entry("late", "acme", "read"))
    await answers("late", 200)
    two.file.write_text("[keys.late")
    async with asyncio.timeout(10):
        while "the keys stay as they were" not in caplog.text:
            await two.ask("late", "/v1/functions")
    assert (await two.ask("late", "/v1/functions")).status_code == 200
    two.file.write_text(before)
    await answers("late", 401)
    await answers(OWN, 200)


async def test_a_file_that_can_not_be_read_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't read"):
        Keyring(None, tmp_path / "nowhere.toml")
    (tmp_path / "keys.toml").write_text("[keys.x]\nrole = 'king'\n")
    with pytest.raises(SpecError, match="king"):
        Keyring(None, tmp_path / "keys.toml")


async def test_metrics_tell_tenants_apart(two: Two, redis_url: str) -> None:
    await publish(redis_url, "shop")
    await two.served.gateway.catalog.resync()
    await two.ask("acme-invoke", "/function/shop")
    await two.ask(OWN, "/function/shop")
    text = (await two.ask(OWN, "/metrics")).text
    assert 'jiffy_calls_total{function="acme/shop",outcome="ok"} 1' in text
    assert 'jiffy_calls_total{function="shop",outcome="ok"} 1' in text


def _tenant(call: Call) -> str:
    revision = wire.unpack(Revision, call.revision)
    assert json.loads(call.payload) is not None
    return revision.tenant
