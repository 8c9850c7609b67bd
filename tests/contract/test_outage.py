"""Which of Redis's errors are worth waiting for, with the errors that redis-py really raises."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from jiffy.contract import outage
from jiffy.contract.errors import PlatformError, Unavailable


def test_no_answer_is_worth_waiting_for() -> None:
    error = outage.error(RedisConnectionError("Connection refused"), answered=False)
    assert type(error) is Unavailable and error.retry_after_s and "Connection refused" in error.message
    assert "TimeoutError" in outage.error(TimeoutError(), answered=False).message


def test_a_full_disk_is_worth_waiting_for() -> None:
    text = "MISCONF Errors writing to the AOF file: No space left on device"
    assert type(outage.error(ResponseError(text), answered=True)) is Unavailable


def test_a_full_disk_under_a_pipeline_is_worth_waiting_for() -> None:
    text = "Command # 1 (XADD k * e LOADING) of pipeline caused error: ('MISCONF Errors writing …',)"
    assert type(outage.error(ResponseError(text), answered=True)) is Unavailable


@pytest.mark.redis
@pytest.mark.parametrize(("setting", "value"), [("maxmemory", "1"), ("min-replicas-to-write", "1")])
@pytest.mark.parametrize("transaction", [False, True])
async def test_what_a_server_says_that_takes_no_writes(
    redis_url: str, setting: str, value: str, transaction: bool
) -> None:
    redis = Redis.from_url(redis_url)
    await redis.config_set(setting, value)
    try:
        with pytest.raises(ResponseError) as single:
            await redis.set("k", "v")
        with pytest.raises(ResponseError) as piped:
            pipe = redis.pipeline(transaction=transaction)
            await pipe.set("k", "v").execute()
    finally:
        await redis.config_set(setting, "0")
        await redis.aclose()
    for raised in (single.value, piped.value):
        assert type(outage.error(raised, answered=True)) is Unavailable


@pytest.mark.redis
async def test_a_refusal_for_good_is_not(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    await redis.set("k", "LOADING")
    with pytest.raises(ResponseError) as raised:
        await redis.lpush("k", "v")
    await redis.aclose()
    assert type(outage.error(raised.value, answered=True)) is PlatformError
