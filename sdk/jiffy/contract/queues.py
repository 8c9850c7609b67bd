"""``redis+stream://host:6379/0/uploads``: a queue's address. Pure; who speaks to it: gateway/triggers/sources.

redis+stream:// redis+list://   [user:password@]host[:port]/DATABASE/KEY      (rediss+… for TLS)
amqp:// amqps://                [user:password@]host[:port]/VHOST/QUEUE       (%2F is the default vhost)
nats://                         [user:password@]host[:port]/STREAM/SUBJECT
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

EXTRAS = {"amqp": "rabbitmq", "amqps": "rabbitmq", "nats": "nats"}  # scheme → the extra that brings its client
REDIS = ("redis+stream", "redis+list", "rediss+stream", "rediss+list")
SCHEMES = (*REDIS, *EXTRAS)
OWN = "jiffy:"  # the platform's own keys are nobody's queue
_EXAMPLE = '"redis+stream://127.0.0.1:6379/0/uploads"'
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


class Address(NamedTuple):
    """A parsed address: `server` is how a client is told where, `space` a database, vhost or stream."""

    scheme: str
    server: str  # with user and password
    space: str
    name: str


def parse(text: Any) -> Address:
    """Raises ValueError with what is allowed."""
    if not isinstance(text, str) or len(text) > 1024 or not text.isprintable():
        raise ValueError(f"an address such as {_EXAMPLE}")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as exc:
        raise ValueError(f"an address such as {_EXAMPLE} ({exc})") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}, such as {_EXAMPLE}")
    space, _, name = (unquote(part) for part in parts.path[1:].partition("/"))
    if not parts.hostname or not space or not name or parts.query or parts.fragment:
        raise ValueError(f"{parts.scheme}://host[:port]/{'DATABASE/KEY' if parts.scheme in REDIS else 'SPACE/NAME'}")
    if parts.scheme in REDIS:
        if not (space.isascii() and space.isdigit()):
            raise ValueError(f"{parts.scheme}://host[:port]/DATABASE/KEY, with a number for the database")
        check_name(name)
    plain = parts.scheme.partition("+")[0]
    return Address(parts.scheme, f"{plain}://{parts.netloc}", space, name)


def check(text: Any) -> str:
    parse(text)
    return str(text)


def check_name(name: Any) -> str:
    """The name of a queue on the same server."""
    if not isinstance(name, str) or not name or len(name) > 256 or not name.isprintable():
        raise ValueError("the name of a queue on the same server")
    if name.startswith(OWN):
        raise ValueError(f"names that do not begin with {OWN}, which are the platform's")
    return name


def public(text: str) -> str:
    """An address without its password."""
    return _PASSWORD.sub(r"\1:***@", text)
