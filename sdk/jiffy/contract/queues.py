"""``redis+stream://host:6379/0/uploads``: a queue's address. Pure; who speaks to it: gateway/triggers/sources.

redis+stream:// redis+list://   [user:password@]host[:port]/DATABASE/KEY      (rediss+… for TLS)
amqp:// amqps://                [user:password@]host[:port]/VHOST/QUEUE       (%2F is the default vhost)
nats://                         [user:password@]host[:port]/STREAM/SUBJECT
sqs://                          KEY:SECRET@REGION/ACCOUNT/QUEUE               Amazon's
sqs+https:// sqs+http://        KEY:SECRET@host[:port]/ACCOUNT/QUEUE[?region=REGION]
kafka:// kafka+ssl://           [user:password@]host[:port]/TOPIC[?sasl=MECHANISM]
mqtt:// mqtts://                [user:password@]host[:port]/TOPIC/FILTER      (# is %23)
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

EXTRAS = {  # scheme → the extra that brings its client
    **dict.fromkeys(("amqp", "amqps"), "rabbitmq"),
    **dict.fromkeys(("nats",), "nats"),
    **dict.fromkeys(("kafka", "kafka+ssl"), "kafka"),
    **dict.fromkeys(("mqtt", "mqtts"), "mqtt"),
    **dict.fromkeys(("sqs", "sqs+https", "sqs+http"), "aws"),
}
REDIS = ("redis+stream", "redis+list", "rediss+stream", "rediss+list")
SCHEMES = (*REDIS, *EXTRAS)
FORMS = {"sqs": "KEY:SECRET@REGION/ACCOUNT/QUEUE", "sqs+https": "KEY:SECRET@host[:port]/ACCOUNT/QUEUE[?region=REGION]"}
FORMS |= {"sqs+http": FORMS["sqs+https"]} | dict.fromkeys(REDIS, "host[:port]/DATABASE/KEY")
FORMS |= dict.fromkeys(("mqtt", "mqtts"), "host[:port]/TOPIC, in which + stands for one level and %23, last, for all")
SASL = ("plain", "scram-sha-256", "scram-sha-512")
FORMS |= dict.fromkeys(("kafka", "kafka+ssl"), f"host[:port]/TOPIC[?sasl={'|'.join(SASL)}]")
OWN = "jiffy:"  # the platform's own keys are nobody's queue
_EXAMPLE = '"redis+stream://127.0.0.1:6379/0/uploads"'
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^@\s]*@")
_REGION = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+){0,4}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule
_SQS_NAMES = "a queue's name has up to 75 letters, digits, - and _, and .fifo at the end where it is one"
_SQS_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}(?:\.fifo)?")


class Address(NamedTuple):
    """A parsed address: `server` is how a client is told where, `space` a database, vhost, stream, account …"""

    scheme: str
    server: str  # with user and password
    space: str
    name: str
    region: str = ""  # of what speaks Amazon's protocols


def parse(text: Any) -> Address:
    """Raises ValueError with what is allowed."""
    parts = split(text, SCHEMES, _EXAMPLE)
    scheme = parts.scheme
    form = f"{scheme}://{FORMS.get(scheme, 'host[:port]/SPACE/NAME')}"
    if EXTRAS.get(scheme) == "mqtt":
        return _mqtt(parts, form)
    if EXTRAS.get(scheme) == "kafka":
        return _kafka(parts, form)
    space, _, name = (unquote(part) for part in parts.path[1:].partition("/"))
    if not parts.hostname or not space or not name:
        raise ValueError(form)
    if EXTRAS.get(scheme) == "aws":
        return _sqs(parts, space, name, form)
    if parts.query:
        raise ValueError(form)
    if scheme in REDIS:
        if not (space.isascii() and space.isdigit()):
            raise ValueError(f"{form}, with a number for the database")
        check_name(name)
    return Address(scheme, f"{scheme.partition('+')[0]}://{parts.netloc}", space, name)


def split(text: Any, schemes: tuple[str, ...], example: str) -> SplitResult:
    """The parts of an address of one of these schemes. Raises ValueError with what is allowed."""
    if not isinstance(text, str) or len(text) > 1024 or not text.isprintable():
        raise ValueError(f"an address such as {example}")
    if "#" in text:
        raise ValueError(f"an address such as {example}; # is %23")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # whose text may hold a part of a password
        raise ValueError(f"an address such as {example}; in a password / is %2F, @ is %40") from None
    if parts.scheme not in schemes:
        raise ValueError(f"one of {', '.join(f'{scheme}://' for scheme in schemes)}, such as {example}")
    return parts


def _sqs(parts: SplitResult, account: str, name: str, form: str) -> Address:
    if not _SQS_NAME.fullmatch(name):
        raise ValueError(f"{form}; {_SQS_NAMES}")
    region = region_of(parts, form)
    if parts.scheme == "sqs":
        if not re.fullmatch(r"[0-9]{12}", account):
            raise ValueError(f"{form}, with the account's twelve digits")
        return Address("sqs", f"sqs://{parts.netloc}", account, name, region)
    return Address(parts.scheme, f"{parts.scheme.partition('+')[2]}://{parts.netloc}", account, name, region)


def _kafka(parts: SplitResult, form: str) -> Address:
    """`space` is the SASL mechanism, as Kafka writes it."""
    name = unquote(parts.path[1:])
    query = parse_qs(parts.query, keep_blank_values=True)
    mechanism = query.pop("sasl", [SASL[0]])[0]
    if not parts.hostname or not _TOPIC.fullmatch(name) or query or mechanism not in SASL:
        raise ValueError(form)
    return Address(parts.scheme, f"{parts.scheme}://{parts.netloc}", mechanism.upper(), name)


def _mqtt(parts: SplitResult, form: str) -> Address:
    name = unquote(parts.path[1:])
    levels = name.split("/")
    wild = [level for level in levels if "+" in level or "#" in level]
    if not parts.hostname or not name or parts.query:
        raise ValueError(form)
    if any(level not in ("+", "#") for level in wild) or "#" in levels[:-1]:
        raise ValueError(form)
    return Address(parts.scheme, f"{parts.scheme}://{parts.netloc}", "", name)


def region_of(parts: SplitResult, form: str) -> str:
    """The region in an address of Amazon's kind, which must hold a key and its secret. "": the server's own."""
    if not parts.username or not parts.password:
        raise ValueError(f"{form}, with an access key and its secret, percent-encoded: / is %2F, + is %2B")
    own = "+" in parts.scheme
    query = parse_qs(parts.query, keep_blank_values=True)
    region = query.get("region", [""])[0] if own else str(parts.hostname)
    if set(query) - ({"region"} if own else set()) or not _REGION.fullmatch(region or "none"):
        raise ValueError(form)
    return region


def dead_letter(address: Address) -> str:
    """Where messages that failed go unless the trigger says. Raises ValueError: the queue's name gives none."""
    name = address.name
    if any(sign in name for sign in ("+#$" if EXTRAS.get(address.scheme) == "mqtt" else "*>")):
        raise ValueError("dead_letter is missing; a name with a wildcard gives it none")
    if EXTRAS.get(address.scheme) == "mqtt":
        return f"{name}/dead"
    if EXTRAS.get(address.scheme) == "aws":
        plain, fifo, _ = name.partition(".fifo")
        return f"{plain}-dead{fifo}"
    return f"{name}:dead" if ":" in name or address.scheme in REDIS else f"{name}.dead"


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


def check_dead_letter(address: Address, name: str) -> str:
    """Could the server of this queue have one of that name, too?"""
    if EXTRAS.get(address.scheme) == "aws":
        if not _SQS_NAME.fullmatch(name):
            raise ValueError(f"dead_letter = {name!r}; {_SQS_NAMES}")
        if name.endswith(".fifo") != address.name.endswith(".fifo"):
            raise ValueError(f"dead_letter = {name!r}; a FIFO queue's is one too (.fifo), another's is none")
    if EXTRAS.get(address.scheme) == "kafka" and (name == address.name or not _TOPIC.fullmatch(name)):
        raise ValueError(f"dead_letter = {name!r}; another topic, of letters, digits, dots, - and _")
    if EXTRAS.get(address.scheme) == "mqtt":
        if "+" in name or "#" in name or name.startswith("$"):
            raise ValueError(f"dead_letter = {name!r}; a topic without + and #, that does not begin with $")
        if _heard(address.name, name):
            raise ValueError(f"dead_letter = {name!r}; the trigger would hear it again: it matches {address.name!r}")
    return name


def _heard(topic_filter: str, topic: str) -> bool:
    """Does a subscription to `topic_filter` get what is published to `topic`?"""
    wanted = topic_filter.split("/")
    if wanted[0] == "$share":
        wanted = wanted[2:]
    levels = topic.split("/")
    if wanted[-1:] == ["#"]:
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))


def public(text: str) -> str:
    """An address without its password."""
    return _PASSWORD.sub(r"\1:***@", text)
