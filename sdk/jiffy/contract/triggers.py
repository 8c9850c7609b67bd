"""What a ``[[functions.NAME.triggers]]`` table may say, by type. Pure: a table in, a complete one or ValueError out.

KINDS is the one place: checks, error texts and the tables of docs/events.md come from it. A complete table has every
option of its type, so that whoever reads a revision's triggers needs no defaults. When a schedule ticks: schedules.py.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import checks, edges, limits, patterns, places, queues, routes, schedules, topics, webhooks

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


class TriggerError(ValueError):
    """A mistake in a trigger; the text names the trigger and the key."""


class Option(NamedTuple):
    """One key of a trigger's table."""

    check: Callable[[Any], Any]  # returns the value made regular, or raises ValueError with what is allowed
    default: Any
    meaning: str


class Kind(NamedTuple):
    """One type of trigger. `whole` looks at the complete table, and raises ValueError."""

    summary: str
    options: dict[str, Option]
    whole: Callable[[dict[str, Any]], None]


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(", ".join(f'"{word}"' for word in words))
        return str(value)

    return check


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("a table")
    try:
        return dict(json.loads(json.dumps(value)))
    except TypeError:
        raise ValueError("a table of texts, numbers, lists and tables") from None


def _one_schedule(table: dict[str, Any]) -> None:
    if sum(bool(table[key]) for key in ("cron", "rate", "at")) != 1:
        raise ValueError("needs exactly one of cron, rate and at")
    if table["start"] and table["end"]:
        planned = schedules.schedule(table)
        if planned.end_ms is not None and planned.end_ms <= planned.start_ms:
            raise ValueError("end is not after start")


SCHEDULE = Kind(
    "Calls the function at times.",
    {
        "cron": Option(schedules.cron, "", "When, in five or six fields (seconds first)."),
        "rate": Option(schedules.rate, "", "How often, counted from when the trigger is first seen."),
        "at": Option(schedules.moment, "", "Once, then."),
        "timezone": Option(schedules.zone, "UTC", "Where the hours of `cron`, `at`, `start` and `end` are."),
        "jitter_s": Option(checks.seconds(0, 3600), 0.0, "Delays each tick by a part of this, to spread load."),
        "start": Option(schedules.moment, "", "No tick before."),
        "end": Option(schedules.moment, "", "No tick from then on."),
        "overlap": Option(
            _one_of("allow", "skip", "queue"),
            "allow",
            "While the last tick's call still runs: call too, leave this tick out, or wait for it.",
        ),
        "catch_up": Option(
            _one_of("skip", "one", "all"),
            "",
            "Ticks missed while the platform was down: none, the latest, all. Default: skip, and one for `at`.",
        ),
        "detail": Option(_table, {}, "What the event's `detail` holds."),
    },
    _one_schedule,
)


def _one_queue(table: dict[str, Any]) -> None:
    if not table["source"]:
        raise ValueError("source is missing; add the address of a queue")
    address = queues.parse(table["source"])
    table["dead_letter"] = queues.check_dead_letter(address, table["dead_letter"] or queues.dead_letter(address))
    if table["ordered"]:
        table["max_concurrency"] = 1


QUEUE = Kind(
    "Calls the function with the messages of a queue.",
    {
        "source": Option(queues.check, "", "The queue's address."),
        "batch_size": Option(checks.integer(1, 1000), 10, "Most messages of one call."),
        "batch_window_s": Option(checks.seconds(0, 300), 0.0, "How long a call waits for its batch to fill."),
        "filter": Option(patterns.check, {}, "A pattern; messages that do not match are acknowledged and left out."),
        "max_concurrency": Option(checks.integer(1, 1000), 10, "Calls at a time, over all gateways."),
        "ordered": Option(
            checks.boolean, False, "One call at a time; what fails is called again before anything newer."
        ),
        "tries": Option(checks.integer(1, 1000), 3, "After so many failed calls a message is a dead letter."),
        "retry_delay_s": Option(
            checks.seconds(0, 300), 1.0, "Before a failed message is called again; doubles each time."
        ),
        "dead_letter": Option(
            queues.check_name,
            "",
            "The queue, on the same server, for messages that failed. Default: the source's name and dead.",
        ),
        "publish_to": Option(topics.check_name, "", "A topic that gets the function's results."),
        "start": Option(_one_of("oldest", "newest"), "oldest", "Where a new trigger begins to read a stream."),
        "end": Option(_one_of("left", "right"), "left", "The end of a Redis list that is read; the oldest is there."),
    },
    _one_queue,
)


def _one_topic(table: dict[str, Any]) -> None:
    if not table["topic"]:
        raise ValueError("topic is missing; add the name of a topic")
    if table["shape"] == "eventbridge" and table["batch_size"] > 1:
        raise ValueError("EventBridge's shape holds one event; leave batch_size out")
    if table["ordered"]:
        table["max_concurrency"] = 1


_OF_QUEUES = ("batch_window_s", "filter", "max_concurrency", "ordered", "tries", "retry_delay_s")

TOPIC = Kind(
    "Calls the function with the events of a topic.",
    {
        "topic": Option(topics.check_pattern, "", "The topic, or a pattern of topics."),
        "shape": Option(_one_of("cloudevents", "sns", "eventbridge"), "cloudevents", "How the function gets events."),
        "batch_size": Option(checks.integer(1, 1000), 1, "Most events of one call; above 1 it gets a list."),
        **{name: QUEUE.options[name] for name in _OF_QUEUES},
        "filter": Option(patterns.check, {}, "A pattern of the event; those that do not match are left out."),
        "publish_to": Option(topics.check_name, "", "A topic that gets the function's results."),
    },
    _one_topic,
)


def _one_files(table: dict[str, Any]) -> None:
    if not table["source"]:
        raise ValueError("source is missing; add the address of a folder or a bucket")
    if table["ordered"]:
        table["max_concurrency"] = 1


def _events(value: Any) -> list[str]:
    words = ("created", "removed")
    if not isinstance(value, (list, tuple)) or not value or set(value) - set(words) or len(set(value)) < len(value):
        raise ValueError('a list of "created" and "removed"')
    return list(value)


FILES = Kind(
    "Calls the function when files appear in a folder or a bucket, change, or vanish.",
    {
        "source": Option(places.check, "", "The address of a folder or a bucket."),
        "events": Option(_events, ["created"], "What calls the function; who replaces a file creates it anew."),
        "content": Option(checks.boolean, False, "Whether events hold the bytes of files of up to 3 MiB."),
        "poll_s": Option(checks.seconds(0, 86_400), 0.0, "Between two looks; 0: 1 s for a folder, 10 s for a bucket."),
        "start": Option(_one_of("oldest", "newest"), "oldest", "Whether files that are there already count as new."),
        **{name: QUEUE.options[name] for name in _OF_QUEUES if name != "batch_window_s"},
        "filter": Option(patterns.check, {}, "A pattern; files that do not match are passed over."),
        "tries": Option(checks.integer(1, 1000), 3, "After so many failed calls a file is given up."),
        "retry_delay_s": Option(
            checks.seconds(0, 300), 1.0, "Before a failed file's call is made again; doubles each time."
        ),
        "publish_to": Option(topics.check_name, "", "A topic that gets the function's results."),
    },
    _one_files,
)


def _one_webhook(table: dict[str, Any]) -> None:
    for key in ("scheme", "secret_env"):
        if not table[key]:
            raise ValueError(f"{key} is missing")


def _variable(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
        raise ValueError("the name of one of the function's environment variables")
    return value


def _header(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", value):
        raise ValueError("the name of a header")
    return value.lower()


WEBHOOK = Kind(
    "Calls the function with deliveries that others sign.",
    {
        "scheme": Option(_one_of(*webhooks.SCHEMES), "", "Whose signature is verified."),
        "secret_env": Option(_variable, "", "The environment variable of the function that holds the secret."),
        "header": Option(_header, "x-signature", "For `hmac`: where the signature is."),
    },
    _one_webhook,
)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1_000_000:
        raise ValueError("a number from 0 to 1000000")
    return float(value)


HTTP = Kind(
    "Calls the function with requests, and says what the gateway does about them.",
    {
        "path": Option(edges.check_path, "", "The route's path; without one: the function's own URL."),
        "methods": Option(edges.check_methods, ["ANY"], "Methods that the route takes."),
        "host": Option(routes.check_host, "", "Only requests for this host."),
        "cors": Option(edges.check_cors, {}, "Which pages of other sites may call and read the answer."),
        "body_max_bytes": Option(
            checks.integer(0, limits.PAYLOAD_MAX_BYTES), 0, "The largest body; 0: what the platform takes."
        ),
        "rate_per_s": Option(_rate, 0.0, "Requests a second, over all gateways; 0: as many as come."),
        "burst": Option(checks.integer(0, 1_000_000), 0, "How many may come at once; 0: those of a second."),
        "rate_per": Option(_one_of("route", "client"), "route", "Whose requests are counted together."),
        "response": Option(edges.check_response, {}, "A fixed response; the function is not called."),
        "redirect": Option(edges.check_redirect, {}, "Sends the client elsewhere; the function is not called."),
        "compress": Option(checks.boolean, False, "gzip for clients that take it, from 1 KB of text on."),
        "etag": Option(checks.boolean, False, "Answers 304 to who has the same body already."),
        "alias": Option(edges.check_alias, "", "Calls the revisions that this alias names; none: the live one."),
    },
    edges.whole,
)

KINDS: dict[str, Kind] = {
    "schedule": SCHEDULE,
    "queue": QUEUE,
    "topic": TOPIC,
    "files": FILES,
    "webhook": WEBHOOK,
    "http": HTTP,
}


def unset(tables: tuple[Mapping[str, Any], ...], env: Mapping[str, str]) -> str:
    """Which trigger names an environment variable that the function lacks, as one line; "" when none does."""
    for table in tables:
        variable = table.get("secret_env")
        if variable and not env.get(variable):
            return f"{table['name']!r}: secret_env = {variable!r}, which is not in the function's env"
    return ""


def completed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A stored trigger with the options that the release which stored it did not know. Raises ValueError."""
    kind = KINDS.get(str(table.get("type")))
    if kind is None or not isinstance(table.get("name"), str):
        raise ValueError("a trigger of a type that this release does not know")
    complete = {key: option.default for key, option in kind.options.items()} | dict(table)
    kind.whole(complete)
    return complete


def check(value: Any) -> tuple[dict[str, Any], ...]:
    """All triggers of a function, complete and named. Raises TriggerError, or ValueError for what is no list at all."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of tables, each with a type; see docs/events.md")
    if len(value) > limits.TRIGGERS_MAX:
        raise TriggerError(f"there are {len(value)}; allowed: at most {limits.TRIGGERS_MAX}")
    found: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(value, 1):
        one = _trigger(table, number, found)
        if one["name"] in found:
            raise TriggerError(f"number {number}: name = {one['name']!r} is taken by another trigger of the function")
        found[one["name"]] = one
    if sum(one["type"] == "http" and not one["path"] for one in found.values()) > 1:
        raise TriggerError("several of type http have no path, and a function has one URL of its own")
    if len(json.dumps(list(found.values()))) > limits.TRIGGERS_MAX_BYTES:
        raise TriggerError(f"they are too long; allowed: {limits.TRIGGERS_MAX_BYTES} bytes as JSON")
    return tuple(found.values())


def _trigger(table: Any, number: int, taken: Mapping[str, Any]) -> dict[str, Any]:
    place = f"number {number}"
    if not isinstance(table, Mapping):
        raise TriggerError(f"{place} is {table!r:.60}; allowed: a table with a type")
    kind_name = table.get("type")
    if not isinstance(kind_name, str) or kind_name not in KINDS:
        raise TriggerError(
            f"{place}: type = {kind_name!r:.60}{_closest(kind_name, KINDS)}; allowed: {', '.join(KINDS)}"
        )
    kind = KINDS[kind_name]
    name = _check_name(table.get("name", _free(kind_name, taken)), place)
    place = f"{name!r}"
    complete: dict[str, Any] = {"name": name, "type": kind_name}
    for key, value in table.items():
        if key in complete:
            continue
        if key not in kind.options:
            allowed = ", ".join(("type", "name", *kind.options))
            raise TriggerError(f"{place}: unknown key {key!r:.60}{_closest(key, kind.options)}; allowed: {allowed}")
        option = kind.options[key]
        if value == option.default:
            continue  # a complete table, checked again
        try:
            complete[key] = option.check(value)
        except ValueError as exc:
            raise TriggerError(f"{place}: {key} = {_found(value)}; allowed: {exc}") from None
    complete |= {key: option.default for key, option in kind.options.items() if key not in complete}
    try:
        kind.whole(complete)
    except ValueError as exc:
        raise TriggerError(f"{place}: {exc}") from None
    return complete


def _check_name(name: Any, place: str) -> str:
    if not isinstance(name, str) or len(name) > limits.NAME_MAX_CHARS or not _NAME.fullmatch(name):
        raise TriggerError(f"{place}: name = {name!r:.60}; allowed: lower-case letters, digits and single hyphens")
    return name


def _free(kind: str, taken: Mapping[str, Any]) -> str:
    """A trigger without a name is called for its type, and counted."""
    number = 1
    while (name := kind if number == 1 else f"{kind}-{number}") in taken:
        number += 1
    return name


def _found(value: Any) -> str:
    text = repr(value)
    text = queues.public(text)
    return text if len(text) <= 60 else text[:57] + "…"


def _closest(key: Any, keys: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(key), list(keys), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
