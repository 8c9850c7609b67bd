"""Where the queue is, as its URL says, and how its primary is asked for. Pure; who connects: jiffy/primary.py.

    redis://  rediss://  unix://          one server, or one address that leads to the primary: redis-py's own URLs
    redis+sentinel://[user:password@]host[:26379][,host…]/SERVICE[/DATABASE]
    redis+cluster://[user:password@]host[:6379][,host…][/NAME]

The last two may begin with rediss+ (TLS). What is behind "?" goes to redis-py (ssl_ca_certs=… say), but for
sentinel_username and sentinel_password (user and password are the servers' own), and for replicas=N: what is accepted
or has ended counts as written once so many replicas hold it.

All keys of one platform lie in one slot of a cluster, because one step writes to many of them: NAME is their hash tag
(keys.py), so each platform of a cluster has a name of its own, and the node that owns the name's slot is its Redis.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from .errors import Unavailable

ONE = ("redis", "rediss", "unix")
SENTINEL = ("redis+sentinel", "rediss+sentinel")
CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*ONE, *SENTINEL, *CLUSTER)
SENTINEL_PORT, REDIS_PORT = 26379, 6379
DEFAULT_NAME = "jiffy"  # of a platform in a cluster
SLOTS = 16384  # of every cluster
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ASKING = ("sentinel_username", "sentinel_password")


class Address(NamedTuple):
    """A parsed URL."""

    server: str  # URL of one server: what redis-py is given, with user, password, database and TLS
    nodes: tuple[tuple[str, int], ...] = ()  # whom to ask where the primary is; (): `server` is it
    service: str = ""  # what Sentinel calls it
    name: str = ""  # of this platform in a cluster
    username: str | None = None  # with which the nodes are asked
    password: str | None = None
    replicas: int = 0  # that must hold what is accepted, and what has ended

    def places(self) -> tuple[tuple[str, int], ...]:
        """Host and port of all servers that the URL names; none for a socket file."""
        parts = urlsplit(self.server)
        one = ((parts.hostname, parts.port or REDIS_PORT),) if parts.scheme != "unix" and parts.hostname else ()
        return self.nodes or one

    @property
    def census(self) -> tuple[tuple[str, ...], ...]:
        """The commands that ask a node who all servers are."""
        if self.service:
            return self.question, *(("SENTINEL", kind, self.service) for kind in ("REPLICAS", "SENTINELS"))
        return (("CLUSTER", "NODES"),)

    def members(self, replies: Sequence[Any], asked: str) -> tuple[tuple[str, int], ...]:
        """Host and port of all servers, out of the replies (RESP2) of the node on the host `asked`."""
        if self.service:
            told = [dict(zip(one[::2], one[1::2], strict=True)) for reply in replies[1:] for one in reply]
            others = ((_text(one[b"ip"]), int(one[b"port"])) for one in told)
            return (self.primary(replies[0], asked), *others)
        nodes = (line.split()[1].partition("@")[0].rpartition(":") for line in _text(replies[0]).splitlines())
        return tuple((host or asked, int(port)) for host, _, port in nodes)

    @property
    def question(self) -> tuple[str, ...]:
        """The command that asks a node where the primary is."""
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service) if self.service else ("CLUSTER", "SLOTS")

    def primary(self, reply: Any, asked: str) -> tuple[str, int]:
        """Host and port out of a reply (RESP2) of the node on the host `asked`. Raises Unavailable: it knows none."""
        if self.service:
            if not reply:
                raise Unavailable(f"Sentinel knows no service {self.service!r}")
            return _text(reply[0]), int(reply[1])
        slot = binascii.crc_hqx(self.name.encode(), 0) % SLOTS
        for first, last, owner, *_ in reply or ():
            if first <= slot <= last:
                return _text(owner[0] or b"") or asked, int(owner[1])  # no host: the one that answers
        raise Unavailable(f"no node of the cluster has slot {slot}")


def parse(url: str) -> Address:
    """Raises Unavailable with what is allowed."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise Unavailable(f"not the URL of a Redis: it must begin with {', '.join(one + '://' for one in SCHEMES)}")
    url, replicas = _replicas(url)
    if scheme in ONE:
        return Address(url, replicas=replicas)
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    first, _, rest = parts.path.strip("/").partition("/")
    nodes = tuple(_node(host, SENTINEL_PORT if scheme in SENTINEL else REDIS_PORT) for host in hosts.split(","))
    asking, told = _taken(parts.query, _ASKING)
    database = rest if scheme in SENTINEL else ""
    plain = f"{scheme.partition('+')[0]}://{user}{at}{hosts.partition(',')[0]}/{database}{'?' if told else ''}{told}"
    if scheme in SENTINEL:
        if not first or (rest and not (rest.isascii() and rest.isdigit())):
            raise Unavailable(f"{scheme}://host[:{SENTINEL_PORT}][,host…]/SERVICE[/DATABASE]")
        username, password = (asking.get(key) for key in _ASKING)
        return Address(plain, nodes, unquote(first), "", username, password, replicas)
    if rest or not _NAME.fullmatch(first or DEFAULT_NAME):
        raise Unavailable(f"{scheme}://host[:{REDIS_PORT}][,host…][/NAME], with letters, digits, '.', '_', '-' in NAME")
    username, _, password = (unquote(part) or None for part in user.partition(":"))
    return Address(plain, nodes, "", first or DEFAULT_NAME, username, password, replicas)


def _replicas(url: str) -> tuple[str, int]:
    """The URL without replicas=N, and N."""
    rest, _, query = url.partition("?")
    taken, told = _taken(query, ("replicas",))
    if "replicas" not in taken:
        return url, 0
    given = taken["replicas"]
    if not (given.isascii() and given.isdigit()):
        raise Unavailable("replicas=N in the URL of a Redis is a number")
    return f"{rest}{'?' if told else ''}{told}", int(given)


def _taken(query: str, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """These parameters of a query, and the query without them."""
    pairs = parse_qsl(query)
    return {k: v for k, v in pairs if k in names}, urlencode([(k, v) for k, v in pairs if k not in names])


def _node(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        return parts.hostname, parts.port or port
    except ValueError as exc:
        raise Unavailable(f"not a host and port of a Redis: {exc}") from None


def public(url: str) -> str:
    """`url` without its passwords."""
    user, at, rest = url.rpartition("@")
    scheme, _, user = user.partition("://")
    name, colon, _ = user.partition(":")
    shown = f"{scheme}://{name}{':…' if colon else ''}@{rest}" if at else url
    return re.sub(r"((?:sentinel_)?password=)[^&]*", r"\1…", shown)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
