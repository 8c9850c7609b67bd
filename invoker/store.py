"""All that the invoker says to Redis: the only module here that knows it.

Calls are read and completions written on two lines of their own; everything else goes through a pool. Errors leave as
Unavailable (try again) or PlatformError (never): jiffy.contract.outage says which. Who resends what: completions.py and
execute.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, NoReturn

from redis.exceptions import RedisError, ResponseError

from jiffy import primary
from jiffy.contract import address, burial, keys, limits, lines, lua, outage, spending
from jiffy.contract.clock import Clock
from jiffy.contract.errors import Conflict, JiffyError, PlatformError
from jiffy.contract.messages import Heartbeat, Layer, Provision, Revision
from jiffy.contract.wire import pack, unpack
from jiffy.line import Line, Script

from .attempt import Attempt
from .completions import Completion

log = logging.getLogger(__name__)

ANSWER_MAX_S = 3.0  # an ordinary request that takes longer: the server hangs, or the network lost it
RETRY_S = 0.5
NAME_MS = int(limits.TAKEN_AFTER_S * 1000)  # when its calls are anybody's, its name is
Entry = tuple[bytes, bytes]  # id in the stream, packed Call

_SCRIPTS = resources.files(__package__) / "scripts"
_COMPLETE = Script(lua.script((_SCRIPTS / "complete.lua").read_bytes(), burial.RULE, lines.RULE))
_HAND_OVER = (_SCRIPTS / "hand_over.lua").read_bytes()  # rarely run: sent whole
_ENTER = (_SCRIPTS / "enter.lua").read_bytes()
_PROVISION = (_SCRIPTS / "provision.lua").read_bytes()


class Store:
    """See the module. `clock` is set to the server's with every heartbeat.

    `holder` tells processes that want the same name apart; one that is started again is the same to itself.
    """

    def __init__(self, url: str, invoker: str, clock: Clock, holder: str = "") -> None:
        self._name = f"jiffy-invoker-{invoker}"
        self._replicas = address.parse(url).replicas
        patient: dict[str, Any] = {"socket_connect_timeout": ANSWER_MAX_S}
        self._redis = primary.client(url, socket_timeout=ANSWER_MAX_S, **patient)
        self._lines = primary.client(
            url, socket_timeout=None, client_name=self._name, **patient
        )  # a heartbeat that fails cuts them
        self._reader, self._writer, self._listener = (Line(self._lines.connection_pool) for _ in range(3))
        self._clock = clock
        self.invoker = invoker
        self._holder = holder or invoker
        self._stream = keys.calls(invoker)
        self._receipts = keys.receipts(invoker)
        self._read = ("XREADGROUP", "GROUP", keys.GROUP, invoker, "COUNT")

    async def open(self) -> None:
        """Connect, set the clock, take the name, make the stream's group. Raises Unavailable, Conflict."""
        await self._ask_the_time()
        give_up = time.monotonic() + 1.2 * limits.TAKEN_AFTER_S  # one that is gone keeps its name for a while
        while not await self._enter():
            if time.monotonic() > give_up:
                raise self._taken()
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Never fails, Redis there or not."""
        for line in (self._reader, self._writer, self._listener):
            await line.cut()
        for redis in (self._redis, self._lines):
            await redis.aclose()

    # --- calls ------------------------------------------------------------------------------------------------
    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """Up to `count` new entries; none after `block_ms`, or when `interrupt` was called."""
        answer = await _asked(self._reader, *self._read, count, "BLOCK", block_ms, "STREAMS", self._stream, ">")
        return [(entry, fields[1]) for entry, fields in answer[0][1]] if answer else []

    async def pending(self) -> list[Entry]:
        """Every entry that was delivered to this invoker and not completed, oldest first."""
        await self._need_group()
        found: list[Entry] = []
        last: bytes | str = "0"
        while True:
            answer = await _asked(self._reader, *self._read, limits.STREAM_READ_MAX, "STREAMS", self._stream, last)
            entries = answer[0][1] if answer else []
            if not entries:
                return found
            found += [(entry, fields[1] if fields else b"") for entry, fields in entries]
            last = entries[-1][0]

    async def interrupt(self) -> None:
        """Make a `read` that blocks return."""
        try:
            clients = await self._redis.client_list()
            for client in clients:
                if client["name"] == self._name:
                    await self._redis.client_unblock(int(client["id"]))
        except (RedisError, OSError):
            await self._reader.cut()

    async def complete(self, batch: list[Completion]) -> None:
        """Write a batch: see scripts/complete.lua. Raises PlatformError; sending it again is harmless."""
        names: list[str] = [self._stream, keys.USAGE, keys.METERED, keys.LATER, keys.LATER_CALLS]
        names += (keys.DELIVERIES, keys.DELIVERY_ITEMS)
        values: list[str | bytes | int] = [
            *(keys.GROUP, limits.ANSWERS_KEEP_S, limits.LOG_ENTRIES_MAX),
            *(limits.DEAD_MAX, limits.DEAD_MAX_BYTES, limits.DEAD_KEEP_S * 1000, limits.RESULT_KEEP_S),
            *(limits.LOG_KEEP_S, limits.LOG_MAX_BYTES, spending.KEEP_S),
            *(limits.RESULT_LARGE_BYTES, limits.RESULTS_MAX_BYTES),
        ]
        for c in batch:
            names += (c.answers_key or self._stream, c.logs_key or self._stream, c.record_key or self._stream)
            if not c.note and len(c.record) >= limits.RESULT_LARGE_BYTES:
                names.append(keys.results(c.tenant))
            kind = "1" if c.note else "0" if c.spends is None else "2"
            values += (c.entry, kind, c.answer, c.usage, c.record)
            if c.fate is None:
                values += ("", len(c.logs), *c.logs)
            else:
                tenant = c.fate.tenant
                names += (keys.backlog(tenant), keys.tally(tenant))
                names += (keys.dead(tenant), keys.dead_letters(tenant), keys.dead_calls(tenant))
                names.append(c.fate.line or self._stream)
                values += (c.fate.state, len(c.logs), *c.logs, c.fate.invocation, *c.fate[3:11])
            if c.spends is not None:
                names += (*c.spends.keys, *c.spends.places)
                values += (len(c.spends.keys), *c.spends[1:4], len(c.spends.places))
        try:
            await self._writer.run(_COMPLETE, names, values)
            wanted = self._replicas
            while wanted and await self._writer.held(wanted, outage.REPLICAS_WAIT_S) < wanted:
                pass  # it is written, so it is not sent again unless this connection ends
        except (RedisError, OSError) as exc:
            _translate(exc)

    async def receipts(self, wait_s: float) -> list[bytes]:
        """What gateways say of answers that are streamed from here, packed; waits so long for the first."""
        command = "BLMPOP", wait_s, 1, self._receipts, "LEFT", "COUNT", limits.STREAM_READ_MAX
        answer = await _asked(self._listener, *command)
        return list(answer[1]) if answer else []

    # --- what this invoker says about itself --------------------------------------------------------------------
    async def beat(self, heartbeat: Heartbeat) -> bool:
        """Publish a heartbeat and set the clock; shall this invoker drain?

        Raises PlatformError; Conflict when another process has taken our name, as it may after a long silence of ours.
        Where nobody answers, or only a replica (a failover), it has then ended the other connections.
        """
        try:
            await self._ask_the_time()
            pipe = self._redis.pipeline(transaction=False)
            names = keys.INVOKERS, keys.holder(self.invoker)
            pipe.eval(outage.BEAT, 2, *names, self.invoker, pack(heartbeat), self._holder, NAME_MS)
            pipe.sismember(keys.DRAINS, self.invoker)
            ours, ordered = await pipe.execute()
        except (RedisError, OSError, JiffyError) as exc:
            if isinstance(exc, primary.ELSEWHERE) or not isinstance(exc, ResponseError):
                for line in (self._reader, self._writer, self._listener):
                    await line.cut()
                await self._redis.connection_pool.disconnect()  # what leads to a replica leads there for ever
            _translate(exc)
        if not ours:
            raise self._taken()
        return bool(ordered)

    async def beats(self) -> list[Heartbeat]:
        """What all invokers said of themselves last. Raises Unavailable."""
        try:
            found: Any = await self._redis.hvals(keys.INVOKERS)
        except (RedisError, OSError) as exc:
            _translate(exc)
        beats = []
        for packed in found:
            with contextlib.suppress(PlatformError):  # another release's
                beats.append(unpack(Heartbeat, packed))
        return beats

    async def hand_over(self, attempts: Sequence[Attempt], to: str) -> int:
        """Put calls of ours on another invoker's stream: see scripts/hand_over.lua. Asking again is harmless."""
        names = [self._stream, keys.calls(to), *(keys.backlog(one.known.revision.tenant) for one in attempts)]
        values: list[str | bytes] = [keys.GROUP]
        for one in attempts:
            values += (one.entry, one.call.invocation, pack(one.call))
        try:
            return int(await self._redis.eval(_HAND_OVER, len(names), *names, *values))  # type: ignore[arg-type]
        except (RedisError, OSError) as exc:
            _translate(exc)

    async def provision(self, process: str, number: int, batch: Sequence[Provision]) -> None:
        """Write what was kept ready: see scripts/provision.lua. Raises PlatformError; asking again is harmless."""
        names = (keys.USAGE, keys.METERED, keys.provisioned(process))
        values = (number, limits.PROVISIONED_KEEP_S, *(pack(one) for one in batch))
        try:
            await self._redis.eval(_PROVISION, len(names), *names, *values)  # type: ignore[arg-type]
        except (RedisError, OSError) as exc:
            _translate(exc)

    async def leave(self) -> None:
        """Take the heartbeat back, and the name, if it is ours. Raises Unavailable."""
        names = keys.INVOKERS, keys.holder(self.invoker)
        try:
            await self._redis.eval(outage.LEAVE, 2, *names, self.invoker, self._holder)
        except (RedisError, OSError) as exc:
            _translate(exc)

    # --- functions ----------------------------------------------------------------------------------------------
    async def watch(self, changed: Callable[[str, str, Revision | None], None]) -> None:
        """Tell every live revision, now and whenever one changes, until cancelled; None: the function is gone.

        After a lost connection all are told again, and those that went meanwhile.
        """
        known: set[tuple[str, str]] = set()
        while True:
            try:
                async with self._lines.pubsub(ignore_subscribe_messages=True) as news:
                    await news.subscribe(keys.FUNCTIONS_CHANGED)
                    there = {
                        (tenant, name)
                        for tenant in map(_text, await self._redis.smembers(keys.TENANTS))
                        for name in map(_text, await self._redis.smembers(keys.functions(tenant)))
                    }
                    for function in known | there:
                        await self._tell(*function, changed)
                    known = there
                    async for message in news.listen():
                        tenant, _, name = _text(message["data"]).partition(":")
                        known.add((tenant, name))
                        await self._tell(tenant, name, changed)
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_S)

    async def _tell(self, tenant: str, name: str, changed: Callable[[str, str, Revision | None], None]) -> None:
        key = keys.function(tenant, name)
        live = await self._redis.hget(key, "live")
        packed: Any = await self._redis.hget(key, keys.revision_field(int(live))) if live else None
        try:
            changed(tenant, name, unpack(Revision, packed) if packed else None)
        except PlatformError as exc:
            log.warning("revision %s of %s:%s: %s", live, tenant, name, exc.message)

    async def watch_bases(self, layers: str, found: Callable[[str, Layer], None]) -> None:
        """Tell (runtime, base) of the usual base layers in the layer store `layers`, now and as they are made."""
        while True:
            try:
                async with self._lines.pubsub(ignore_subscribe_messages=True) as news:
                    await news.subscribe(keys.BASES_CHANGED)
                    while True:
                        there: dict[Any, Any] = await self._redis.hgetall(keys.bases(layers))
                        for runtime, packed in there.items():
                            found(_text(runtime), unpack(Layer, packed))
                        await anext(news.listen())
            except (RedisError, OSError, PlatformError):
                await asyncio.sleep(RETRY_S)

    # --- within -------------------------------------------------------------------------------------------------
    async def _ask_the_time(self) -> None:
        asked = time.monotonic_ns()
        try:
            seconds, micros = await self._redis.time()
        except (RedisError, OSError) as exc:
            _translate(exc)
        self._clock.set(int(seconds) * 1_000_000 + int(micros), asked, time.monotonic_ns())

    async def _need_group(self) -> None:
        """Make the group if it is gone."""
        try:
            groups = await self._redis.xinfo_groups(self._stream)
        except ResponseError:  # no such stream
            groups = []
        except (RedisError, OSError) as exc:
            _translate(exc)
        if not any(group["name"] == keys.GROUP.encode() for group in groups) and not await self._enter():
            raise self._taken()

    async def _enter(self) -> bool:
        """Take our name and make the stream's group: see scripts/enter.lua. False: another process has the name."""
        names = keys.holder(self.invoker), keys.STREAMS, self._stream
        values = self._holder, NAME_MS, self.invoker, self._clock() // 1000, keys.GROUP
        try:
            return bool(await self._redis.eval(_ENTER, len(names), *names, *values))  # type: ignore[arg-type]
        except (RedisError, OSError) as exc:
            _translate(exc)

    def _taken(self) -> Conflict:
        return Conflict(
            f"an invoker named {self.invoker} lives already, in another data folder or on another host: two would take "
            "each other's calls; give this one a name of its own (--id)"
        )


async def _asked(line: Line, *command: Any) -> Any:
    try:
        return await line.ask(*command)
    except (RedisError, OSError) as exc:
        _translate(exc)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _translate(exc: Exception) -> NoReturn:
    if isinstance(exc, JiffyError):
        raise exc
    raise outage.error(exc, answered=isinstance(exc, ResponseError)) from exc
