"""What it means when the queue says no, the same for everybody who speaks to it.

Redis answers some requests with "not now": its disk is full, it is loading, it has just become a replica. The same
request will be taken later, so whoever can wait keeps it and asks again (Unavailable, 503). Every other refusal holds
however often one asks (PlatformError, 502). No answer at all is Unavailable too. Pure: each store.py hands in what
its client raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from .errors import PlatformError, Unavailable

RETRY_AFTER_S = 1.0
# The first words of answers that mean "not now" (redis.io/docs, "RESP errors" and the server's shared.* replies).
TEMPORARY = frozenset(
    {
        "LOADING",  # it reads its append-only file
        "MISCONF",  # it can't write it: the disk is full
        "OOM",  # maxmemory is reached
        "READONLY",  # a failover: this one is a replica now
        "NOREPLICAS",  # too few replicas to be sure of a write
        "MASTERDOWN",  # a replica that lost its primary
        "CLUSTERDOWN",
        "TRYAGAIN",
        "BUSY",  # a script takes too long
    }
)
# What must be said even while the queue is full, or it could not become emptier: who lives, and what has ended.
# (Scripts may write beyond maxmemory where they say so: Redis 7, "Script flags".)
EVEN_WHEN_FULL = "#!lua flags=allow-oom\n"
BEAT = f"""{EVEN_WHEN_FULL}
-- One heartbeat. KEYS[1]: invokers, or builders (hash)   ARGV: id, Heartbeat or BuilderBeat
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
PORT = 6379
SCHEMES = ("redis", "rediss", "unix")
_WITHIN = "caused error: "  # redis-py says ``Command # 1 (…) of pipeline caused error: ('MISCONF …',)``


def error(exc: Exception, *, answered: bool) -> PlatformError:
    """What to raise for `exc`; `answered`: it is the server's answer, not the lack of one."""
    text = str(exc) or type(exc).__name__
    if not answered:
        return Unavailable(f"the queue does not answer: {text}", retry_after_s=RETRY_AFTER_S)
    word = getattr(exc, "status_code", None) or text.rpartition(_WITHIN)[2].lstrip("('\"").partition(" ")[0]
    if word in TEMPORARY:
        said = text if word in text else f"{word} {text}"
        return Unavailable(f"the queue takes nothing now: {said}", retry_after_s=RETRY_AFTER_S)
    return PlatformError(f"the queue refuses: {text}")


def address(url: str) -> str:
    """The same URL of a Redis. Raises Unavailable where it names what can't be spoken to."""
    scheme = url.partition("://")[0]
    if scheme in SCHEMES:
        return url
    if "sentinel" in scheme or "cluster" in scheme:
        raise Unavailable(
            f"{scheme}:// is not spoken: give one address that leads to the primary (a virtual one, or HAProxy, which "
            "asks each server for its role); Redis Cluster can't be used: one step writes to keys of several slots"
        )
    raise Unavailable(f"not the URL of a Redis: it must begin with {', '.join(one + '://' for one in SCHEMES)}")


def places(url: str) -> tuple[tuple[str, int], ...]:
    """Host and port of the servers that a URL names; none for a socket file."""
    parts = urlsplit(url)
    return ((parts.hostname, parts.port or PORT),) if parts.scheme != "unix" and parts.hostname else ()


def no_cluster(info: Mapping[str, object]) -> None:
    """`info`: what INFO cluster says. Raises Unavailable where the server is one of a cluster."""
    if str(info.get("cluster_enabled", "0")) == "1":
        raise Unavailable(
            "this Redis is part of a cluster, which can't be used: one step writes to keys of several slots; give a "
            "Redis with cluster-enabled no"
        )
