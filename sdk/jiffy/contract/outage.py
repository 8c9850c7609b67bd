"""What it means when the queue says no, the same for everybody who speaks to it.

Redis answers some requests with "not now": its disk is full, it is loading, it has just become a replica. The same
request will be taken later, so whoever can wait keeps it and asks again (Unavailable, 503). Every other refusal holds
however often one asks (PlatformError, 502). No answer at all is Unavailable too. Pure: each store.py hands in what
its client raised.
"""

from __future__ import annotations

from .errors import PlatformError, Unavailable

RETRY_AFTER_S = 1.0
REPLICAS_WAIT_S = 1.0  # for replicas to hold what was written: they usually do within a millisecond
# The first words of answers that mean "not now" (redis.io/docs, "RESP errors" and the server's shared.* replies).
TEMPORARY = frozenset(
    {
        "LOADING",  # it reads its append-only file
        "MISCONF",  # it can't write it: the disk is full
        "OOM",  # maxmemory is reached
        "READONLY",  # a failover: this one is a replica now
        "NOREPLICAS",  # too few replicas to be sure of a write
        "MASTERDOWN",  # a replica that lost its primary
        "UNBLOCKED",  # a failover, too: it became a replica while it was waited on
        "CLUSTERDOWN",
        "MOVED",  # another node of the cluster has our keys: the next connection leads there
        "ASK",  # … is being given them
        "TRYAGAIN",
        "BUSY",  # a script takes too long
    }
)
# What must be said even while the queue is full, or it could not become emptier: who lives, and what has ended.
# (Scripts may write beyond maxmemory where they say so: Redis 7, "Script flags".)
EVEN_WHEN_FULL = "#!lua flags=allow-oom\n"
BEAT = f"""{EVEN_WHEN_FULL}
-- One heartbeat. KEYS[1]: invokers, or builders (hash)   ARGV: id, Heartbeat or BuilderBeat
-- of an invoker also KEYS[2]: who has this name (string)  ARGV: who we are, and for how many ms the name stays ours
-- returns 1, or 0 when another one has the name: nothing is written then
if KEYS[2] then
  local holder = redis.call('GET', KEYS[2])
  if holder and holder ~= ARGV[3] then return 0 end
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
LEAVE = f"""{EVEN_WHEN_FULL}
-- Take an invoker's heartbeat and its name back, unless another one has the name.
-- KEYS[1]: invokers (hash)  [2]: who has this name (string)    ARGV: id, who we are
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
_WITHIN = "caused error: "  # redis-py says ``Command # 1 (…) of pipeline caused error: ('MISCONF …',)``


def held(replicas: int, wanted: int) -> None:
    """Raises Unavailable where fewer `replicas` than `wanted` hold what was written: a failover may lose it."""
    if replicas < wanted:
        raise Unavailable(
            f"the queue has it, but {replicas} of its replicas and not {wanted}: it may be lost, or not",
            retry_after_s=RETRY_AFTER_S,
        )


def error(exc: Exception, *, answered: bool) -> PlatformError:
    """What to raise for `exc`; `answered`: it is the server's answer, not the lack of one."""
    text = str(exc) or type(exc).__name__
    if not answered:
        return Unavailable(f"the queue does not answer: {text}", retry_after_s=RETRY_AFTER_S)
    word = getattr(exc, "status_code", None) or text.rpartition(_WITHIN)[2].lstrip("('\"").partition(" ")[0]
    if word in TEMPORARY:
        said = text if word in text else f"{word} {text}"
        return Unavailable(f"the queue takes nothing now: {said}", retry_after_s=RETRY_AFTER_S)
    if word == "CROSSSLOT":
        return PlatformError("this Redis is part of a cluster: give its URL as redis+cluster://HOST:PORT/NAME")
    return PlatformError(f"the queue refuses: {text}")
