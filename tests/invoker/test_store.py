"""What the invoker says to Redis, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from invoker.completions import Completion, Completions, Fate
from invoker.store import Entry, Store
from jiffy.contract import keys, limits
from jiffy.contract.clock import Clock
from jiffy.contract.errors import Conflict, PlatformError, Unavailable
from jiffy.contract.messages import Heartbeat, Revision, State
from jiffy.contract.wire import pack, unpack
from tests import servers

from .fakes import beat, revision

pytestmark = pytest.mark.redis
STREAM = keys.calls("inv-1")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    store = Store(redis_url, "inv-1", Clock())
    await store.open()
    yield store
    await store.close()


async def delivered(store: Store, redis: Redis, *calls: bytes) -> list[Entry]:
    """Put calls into the stream and read them."""
    for call in calls:
        await redis.xadd(STREAM, {"c": call})
    return await store.read(limits.STREAM_READ_MAX, 1000)


async def end(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def completion(entry: bytes, answer: bytes = b"answer", **changes: object) -> Completion:
    whole = Completion(
        entry, keys.answers("gw"), keys.logs("t", "f"), "", False, answer, b"usage", b"", (b"one", b"two")
    )
    return whole._replace(**changes)  # type: ignore[arg-type]


def fate(invocation: str = "i", **changes: object) -> Fate:
    plain = Fate(invocation, "t", State.DONE, 0, b"", b"", 7, limits.RESULT_KEEP_S)
    return plain._replace(**changes)  # type: ignore[arg-type]


class Written:
    """What was written, in order; can be waited for."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self._more = asyncio.Event()

    def __call__(self, batch: list[Completion]) -> None:
        self.entries += [item.entry for item in batch]
        self._more.set()

    async def count(self, count: int) -> list[bytes]:
        while len(self.entries) < count:
            self._more.clear()
            await self._more.wait()
        return self.entries


def never(item: Completion) -> None:
    raise AssertionError(f"{item.entry!r} was given up")


async def test_calls_are_read_in_order_and_stay_pending(store: Store, redis: Redis) -> None:
    entries = await delivered(store, redis, b"a", b"b", b"c")
    assert [packed for _, packed in entries] == [b"a", b"b", b"c"]
    assert await store.read(10, 1) == []
    assert await store.pending() == entries


async def test_a_completion_is_one_step(store: Store, redis: Redis) -> None:
    [(entry, _)] = await delivered(store, redis, b"a")
    await store.complete([completion(entry, record_key=keys.invocation("i"), record=b"record", fate=fate())])
    assert await redis.lrange(keys.answers("gw"), 0, -1) == [b"answer"]
    assert 0 < await redis.ttl(keys.answers("gw")) <= limits.ANSWERS_KEEP_S
    assert [fields for _, fields in await redis.xrange(keys.USAGE)] == [{b"u": b"usage"}]
    assert [fields[b"l"] for _, fields in await redis.xrange(keys.logs("t", "f"))] == [b"one", b"two"]
    assert await redis.get(keys.invocation("i")) == b"record"
    assert 0 < await redis.ttl(keys.invocation("i")) <= limits.RESULT_KEEP_S
    assert await redis.xlen(STREAM) == 0 and await store.pending() == []


async def test_what_is_completed_already_changes_nothing(store: Store, redis: Redis) -> None:
    (first, _), (second, _) = await delivered(store, redis, b"a", b"b")
    await store.complete([completion(first)])
    await store.complete([completion(first, b"again"), completion(second, b"other"), completion(second, b"twice")])
    assert await redis.lrange(keys.answers("gw"), 0, -1) == [b"answer", b"other"]
    assert await redis.xlen(keys.USAGE) == 2


async def test_nobody_waits_for_an_asynchronous_call(store: Store, redis: Redis) -> None:
    [(entry, _)] = await delivered(store, redis, b"a")
    await store.complete([completion(entry, answers_key="")])
    assert await redis.keys(keys.answers("*")) == []
    assert await redis.xlen(keys.USAGE) == 1


async def test_the_next_attempt_waits_for_its_time(store: Store, redis: Redis) -> None:
    [(entry, _)] = await delivered(store, redis, b"a")
    again = fate(state=State.QUEUED, moment_ms=1_700_000_000_123, call=b"a2")
    for _ in range(2):
        await store.complete([completion(entry, answers_key="", record_key="r", record=b"queued", fate=again)])
    assert await redis.zrange(keys.LATER, 0, -1, withscores=True) == [(b"i", 1_700_000_000_123)]
    assert await redis.hgetall(keys.LATER_CALLS) == {b"i": b"a2"}
    assert await redis.hgetall(keys.backlog("t")) == {b"i": b"later"}
    assert await redis.hgetall(keys.tally("t")) == {b"retried": b"1"}, "once"
    assert await store.read(10, 1) == []


async def test_a_call_that_failed_for_good_is_a_dead_letter(store: Store, redis: Redis) -> None:
    [(entry, _)] = await delivered(store, redis, b"a")
    await redis.hset(keys.backlog("t"), "i", "later")
    dead = fate(state=State.DEAD, moment_ms=5, call=b"a3", letter=b"letter", keep_s=limits.DEAD_KEEP_S)
    await store.complete([completion(entry, answers_key="", record_key="r", record=b"dead", fate=dead)])
    assert await redis.zrange(keys.dead("t"), 0, -1, withscores=True) == [(b"i", 5)]
    assert await redis.hgetall(keys.dead_letters("t")) == {b"i": b"letter"}
    assert await redis.hgetall(keys.dead_calls("t")) == {b"i": b"a3"}
    assert await redis.hgetall(keys.tally("t")) == {b"dead": b"1", b"dead_bytes": b"2", b"bytes": b"-7"}
    assert await redis.exists(keys.backlog("t")) == 0
    assert limits.RESULT_KEEP_S < await redis.ttl("r") <= limits.DEAD_KEEP_S


async def test_the_oldest_dead_letters_make_way(store: Store, redis: Redis) -> None:
    entries = await delivered(store, redis, *(b"%d" % n for n in range(6)))
    day = 86_400_000
    sizes = (1, limits.DEAD_MAX_BYTES // 2, limits.DEAD_MAX_BYTES // 2, 10, 10, 10)
    moments = (0, day, day + 1, day + 2, 14 * day + 1, 14 * day + 2)
    for n, ((entry, _), size, moment) in enumerate(zip(entries, sizes, moments, strict=True)):
        dead = fate(str(n), state=State.DEAD, moment_ms=moment, call=bytes(size), letter=b"letter")
        await store.complete([completion(entry, answers_key="", record_key=f"r{n}", record=b"dead", fate=dead)])
    left = [b"2", b"3", b"4", b"5"]
    assert await redis.zrange(keys.dead("t"), 0, -1) == left
    assert sorted(await redis.hkeys(keys.dead_calls("t"))) == sorted(await redis.hkeys(keys.dead_letters("t"))) == left
    tally = await redis.hgetall(keys.tally("t"))
    assert (tally[b"dropped"], tally[b"dead"]) == (b"2", b"6")
    assert int(tally[b"dead_bytes"]) == limits.DEAD_MAX_BYTES // 2 + 30


async def test_a_chatty_functions_log_is_bounded_in_bytes(store: Store, redis: Redis) -> None:
    logs = keys.logs("t", "f")
    entries = 3 * limits.LOG_MAX_BYTES // limits.LOG_CHUNK_MAX_BYTES
    at_once = 64
    for n in range(0, entries, at_once):
        [(entry, _)] = await delivered(store, redis, b"call")
        printed = tuple(b"%6d" % (n + i) + bytes(limits.LOG_CHUNK_MAX_BYTES) for i in range(at_once))
        await store.complete([completion(entry, logs=printed)])
        assert await redis.memory_usage(logs, samples=0) < limits.LOG_MAX_BYTES * 1.25
    [(_, last)] = await redis.xrevrange(logs, count=1)
    assert last[b"l"].startswith(b"%6d" % (entries - 1)), "the newest are kept"
    assert await redis.memory_usage(logs, samples=0) > limits.LOG_MAX_BYTES / 4
    assert 0 < await redis.ttl(logs) <= limits.LOG_KEEP_S
    assert 0 < await redis.ttl(keys.logs_size("t", "f")) <= limits.LOG_KEEP_S


async def test_notes_are_written_while_the_call_is_ours(store: Store, redis: Redis) -> None:
    [(entry, _)] = await delivered(store, redis, b"a")
    await redis.set(keys.invocation("i"), b"queued", ex=1000)
    note = completion(entry, b"piece", note=True, record_key=keys.invocation("i"), record=b"running", logs=(b"so far",))
    await store.complete([note])
    assert await redis.get(keys.invocation("i")) == b"running" and await redis.ttl(keys.invocation("i")) > 900
    assert await redis.lpop(keys.answers("gw")) == b"piece" and await redis.xlen(keys.USAGE) == 0
    await store.complete([completion(entry, record_key=keys.invocation("i"), record=b"done", fate=fate())])
    await store.complete([note])
    assert await redis.get(keys.invocation("i")) == b"done", "a late note does not undo the end"
    assert await redis.lrange(keys.answers("gw"), 0, -1) == [b"answer"], "and no piece follows it"


async def test_a_server_that_lost_its_scripts_is_given_them_again(store: Store, redis: Redis) -> None:
    entries = await delivered(store, redis, b"a", b"b")
    await store.complete([completion(entries[0][0])])
    await redis.script_flush()
    await store.complete([completion(entries[1][0])])
    assert await redis.xlen(keys.USAGE) == 2


async def test_a_full_server_still_hears_what_has_ended_and_who_lives(store: Store, redis: Redis) -> None:
    [(first, _), (second, _)] = await delivered(store, redis, b"a", b"b")
    note = completion(second, b"", answers_key="", note=True, logs=(b"it says something",))
    await redis.config_set("maxmemory", "1")
    try:
        await store.complete([note, completion(first)])
        await store.beat(beat())
        assert await store.pending() == [(second, b"b")]
        await store.open()  # as one does that is started then
    finally:
        await redis.config_set("maxmemory", "0")
    assert await redis.xlen(keys.USAGE) == 1 and await redis.llen(keys.answers("gw")) == 1
    assert await redis.hexists(keys.INVOKERS, "inv-1")


async def test_a_stream_that_was_lost_is_made_again(store: Store, redis: Redis) -> None:
    await redis.delete(STREAM)
    with pytest.raises(PlatformError):
        await store.read(1, 1)
    assert await store.pending() == []
    assert len(await delivered(store, redis, b"a")) == 1


async def test_a_blocked_read_can_be_interrupted(store: Store) -> None:
    reading = asyncio.ensure_future(store.read(1, 60_000))
    while not reading.done():
        await store.interrupt()
        await asyncio.wait((reading,), timeout=0.02)
    assert reading.result() == []


async def test_heartbeats_are_there_until_one_leaves(store: Store, redis: Redis) -> None:
    await store.beat(beat(7))
    packed = await redis.hget(keys.INVOKERS, "inv-1")
    assert packed is not None and unpack(Heartbeat, packed) == beat(7)  # type: ignore[arg-type]
    await store.leave()
    assert await redis.hlen(keys.INVOKERS) == 0


async def test_the_clock_is_the_servers(redis_url: str) -> None:
    clock = Clock()
    clock.offset_us = 0
    store = Store(redis_url, "inv-1", clock)
    await store.open()
    client = Redis.from_url(redis_url)
    seconds, _ = await client.time()
    assert abs(clock() - int(seconds) * 1_000_000) < 10_000_000
    await client.aclose()
    await store.close()


async def test_live_revisions_are_told_at_once_and_when_they_change(store: Store, redis: Redis) -> None:
    async def publish(made: Revision) -> None:
        key = keys.function(made.tenant, made.function)
        await redis.hset(key, mapping={"live": made.number, keys.revision_field(made.number): pack(made)})
        await redis.sadd(keys.TENANTS, made.tenant)
        await redis.sadd(keys.functions(made.tenant), made.function)
        await redis.publish(keys.FUNCTIONS_CHANGED, f"{made.tenant}:{made.function}")

    await publish(revision())
    told: asyncio.Queue[tuple[str, str, Revision | None]] = asyncio.Queue()
    watching = asyncio.ensure_future(store.watch(lambda *what: told.put_nowait(what)))
    assert await told.get() == ("default", "hello", revision())
    await publish(revision(number=2))
    assert await told.get() == ("default", "hello", revision(number=2))
    await redis.delete(keys.function("default", "hello"))
    await redis.publish(keys.FUNCTIONS_CHANGED, "default:hello")
    assert await told.get() == ("default", "hello", None)
    await end(watching)


async def test_a_removal_that_was_missed_is_told_after_all(store: Store, redis: Redis) -> None:
    made = revision()
    key = keys.function(made.tenant, made.function)
    await redis.hset(key, mapping={"live": 1, keys.revision_field(1): pack(made)})
    await redis.sadd(keys.TENANTS, made.tenant)
    await redis.sadd(keys.functions(made.tenant), made.function)
    told: asyncio.Queue[tuple[str, str, Revision | None]] = asyncio.Queue()
    watching = asyncio.ensure_future(store.watch(lambda *what: told.put_nowait(what)))
    assert await told.get() == ("default", "hello", made)
    await redis.delete(key, keys.TENANTS, keys.functions(made.tenant))  # and the word of it got lost
    await redis.client_kill_filter(_type="pubsub")
    assert await told.get() == ("default", "hello", None)
    await end(watching)


async def test_nobody_there_is_one_clear_error() -> None:
    store = Store("unix:///nowhere/redis.sock", "inv-1", Clock())
    with pytest.raises(Unavailable, match="the queue does not answer"):
        await store.open()
    await store.close()


async def test_nothing_that_ended_is_lost_while_the_server_is_away() -> None:
    with servers.valkey(persistent=True) as server:
        store = Store(server.url, "inv-1", Clock())
        await store.open()
        client = Redis.from_url(server.url)
        entries = await delivered(store, client, b"a", b"b", b"c")
        written = Written()
        completions = Completions(store.complete, written, never)
        running = asyncio.ensure_future(completions.run())
        server.stop()
        for entry, _ in entries:
            completions.add(completion(entry))
        with pytest.raises(Unavailable):
            await store.beat(beat())
        assert written.entries == []
        server.start()
        assert await written.count(3) == [entry for entry, _ in entries]
        assert await client.xlen(keys.USAGE) == 3
        await end(running)
        await client.aclose()
        await store.close()


class Refusing:
    """A server that refuses one entry for a reason of its own."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    async def send(self, batch: list[Completion]) -> None:
        await asyncio.sleep(0)
        if any(item.entry == b"bad" for item in batch):
            raise PlatformError("no")
        self.batches.append([item.entry for item in batch])


async def test_one_refused_item_does_not_hold_up_the_others() -> None:
    server = Refusing()
    written = Written()
    given_up: list[bytes] = []
    completions = Completions(server.send, written, lambda item: given_up.append(item.entry))
    for entry in (b"1", b"bad", b"2"):
        completions.add(completion(entry))
    running = asyncio.ensure_future(completions.run())
    assert await written.count(2) == [b"1", b"2"], "what was not written is not said to be"
    assert given_up == [b"bad"]
    assert server.batches == [[b"1"], [b"2"]]
    await end(running)


async def test_what_ends_while_a_batch_is_in_flight_goes_out_in_the_next() -> None:
    server = Refusing()
    written = Written()
    completions = Completions(server.send, written, never)
    running = asyncio.ensure_future(completions.run())
    await asyncio.sleep(0)
    completions.add(completion(b"1"))
    await asyncio.sleep(0)
    for entry in (b"2", b"3", b"4"):
        completions.add(completion(entry))
    await written.count(4)
    assert server.batches == [[b"1"], [b"2", b"3", b"4"]]
    await end(running)


async def test_a_name_is_one_process_alone(redis_url: str, redis: Redis) -> None:
    """Two would take each other's calls. One that was killed is started again under its name at once."""
    first, again, other = (Store(redis_url, "inv-1", Clock(), holder) for holder in ("a:/data", "a:/data", "b:/data"))
    await first.open()
    await again.open()

    over = asyncio.Event()

    async def beats() -> None:
        while not over.is_set():
            await first.beat(beat())
            await asyncio.sleep(limits.HEARTBEAT_S)

    beating = asyncio.ensure_future(beats())
    with pytest.raises(Conflict, match="--id"):
        await other.open()
    over.set()
    await beating
    await redis.delete(keys.holder("inv-1"))  # as it expires when there is no beat for long
    await other.open()
    with pytest.raises(Conflict):
        await first.beat(beat())
    await other.beat(beat())
    await first.leave()
    assert await redis.hexists(keys.INVOKERS, "inv-1"), "what the other said stays"
    await other.leave()
    await first.open()
    for store in (first, again, other):
        await store.close()


async def test_what_results_take_is_bounded_by_tenant(store: Store, redis: Redis) -> None:
    old, new, small = (keys.invocation(name) for name in ("old", "new", "small"))
    soon = ((await redis.time())[0] + 60) * 1000
    await redis.mset({old: b"another result", keys.results("t") + ":bytes": limits.RESULTS_MAX_BYTES})
    await redis.zadd(keys.results("t"), {f"{old} {limits.RESULTS_MAX_BYTES}": soon})
    one, two = (entry for entry, _ in await delivered(store, redis, b"1", b"2"))
    record = b"r" * limits.RESULT_LARGE_BYTES
    ended = [completion(one, record_key=new, record=record, fate=fate("new"), tenant="t")]
    ended.append(completion(two, record_key=small, record=record[1:], fate=fate("small"), tenant="t"))
    for _ in range(2):  # a resend counts nothing
        await store.complete(ended)
    assert [await redis.exists(key) for key in (old, new, small)] == [0, 1, 1], "what expires first makes way"
    assert [int(n or 0) for n in await redis.mget(keys.results("t") + ":bytes")] == [len(record)]
