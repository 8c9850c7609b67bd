"""Which function is meant, and who may call it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.conftest import Served, serving
from tests.gateway.fake_invoker import publish, running
from tests.gateway.test_calls import event_of

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("path", ["/function/open", "/function/open/x", "/open/7"])
async def test_a_public_function_needs_no_key_and_nothing_else_is_open(
    redis_url: str, data_dir: Any, path: str
) -> None:
    await publish(redis_url, "open", routes=("GET /open/{id}",), public=True)
    await publish(redis_url, "closed", routes=("GET /closed",))
    async with running(redis_url) as fake, serving(redis_url, data_dir, api_key="s3cret") as served:
        assert (await served.http.get(path)).status_code == 200
        assert (await served.http.get(path, headers={"authorization": "Bearer theirs"})).status_code == 200
        assert (await served.http.get(path, headers={"authorization": "Bearer s3cret"})).status_code == 200
        seen = [event_of(call)["headers"].get("authorization") for call in fake.calls]
        assert seen == [None, "Bearer theirs", None]
        for method, other in (
            ("POST", "/v1/functions/open/invocations"),
            ("GET", "/v1/functions/open"),
            ("GET", "/v1/functions/open/logs"),
            ("POST", "/open/7"),
            ("GET", "/closed"),
            ("GET", "/function/closed"),
            ("GET", "/function/nosuch"),
            ("GET", "/function/No%20Such"),
        ):
            assert (await served.http.request(method, other)).status_code == 401, other


async def test_a_name_that_is_nearly_right_is_told(redis_url: str, served: Served) -> None:
    await publish(redis_url)
    await served.gateway.catalog.resync()
    hint = "there is no function 'helo'; did you mean 'hello'?"
    for method, path in (
        ("GET", "/function/helo"),
        ("POST", "/v1/functions/helo/invocations"),
        ("GET", "/v1/functions/helo"),
        ("DELETE", "/v1/functions/helo"),
        ("GET", "/v1/functions/helo/logs"),
        ("POST", "/v1/functions/helo/live"),
        ("GET", "/v1/triggers/helo/x"),
    ):
        answer = await served.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, hint), path
    assert (await served.http.get("/function/nothing-like-it")).json()["error"]["message"].endswith("'nothing-like-it'")
