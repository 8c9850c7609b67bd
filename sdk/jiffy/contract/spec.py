"""What a user declares about a function, checked. Pure: text in, `FunctionSpec` or SpecError out.

One table, KEYS, says each key's type, bounds, default and meaning; the check, the error texts and
docs/jiffy-toml.md all come from it. An error names the place, the key, what was found and what is allowed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from . import checks, edges, limits, triggers
from .errors import SpecError

PROGRAMS = ("provided", "image")  # runtimes whose functions are programs, without a handler
IMAGE_KEYS = ("image", "entrypoint", "command", "http_port")
SECRET = ("env",)  # keys whose values no error shows
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One ``[functions.NAME]`` table, complete and valid. See KEYS for units and bounds."""

    name: str
    handler: str  # "module:attribute", dotted module
    runtime: str = "python3"
    memory_mb: int = limits.MEMORY_DEFAULT_MB
    timeout_s: float = limits.TIMEOUT_DEFAULT_S
    max_instances: int = limits.INSTANCES_DEFAULT
    min_instances: int = 0
    reuse: str = "always"
    max_requests: int = 0
    network: bool = False
    public: bool = False
    env: Mapping[str, str] = ()  # type: ignore[assignment]
    routes: tuple[str, ...] = ()
    description: str = ""
    triggers: tuple[Mapping[str, Any], ...] = ()  # complete tables of triggers.KINDS
    retries: int = limits.RETRIES_DEFAULT
    max_age_s: float = limits.ASYNC_WAIT_MAX_S
    backoff_s: float = limits.BACKOFF_DEFAULT_S
    result_keep_s: float = limits.RESULT_KEEP_S
    on_success: str = ""
    on_failure: str = ""
    tags: Mapping[str, str] = ()  # type: ignore[assignment]
    stream: bool = False
    slim: bool = False
    keep: tuple[str, ...] = ()
    test_event: str = ""
    whole: tuple[str, ...] = ()
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    http_port: int = 0

    @property
    def every_route(self) -> tuple[str, ...]:
        """`routes`, and those that http triggers declare."""
        return edges.every_route(self.routes, self.triggers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; ``parse_function(spec.name, spec.to_dict())`` gives the spec back."""
        values = asdict(self)
        values.pop("name")
        lists = {
            "routes": list(self.routes),
            "triggers": list(self.triggers),
            "keep": list(self.keep),
            "whole": list(self.whole),
            "entrypoint": list(self.entrypoint),
            "command": list(self.command),
        }
        return values | {"env": dict(self.env), "tags": dict(self.tags)} | lists


class Key(NamedTuple):
    """One key of a function's table."""

    check: Callable[[Any], Any]  # returns the value, or raises ValueError with what is allowed
    default: str
    meaning: str

    @property
    def allowed(self) -> str:
        """What the check says of a value that no key takes."""
        try:
            self.check(None)
        except ValueError as exc:
            return str(exc)
        raise AssertionError("a key that takes None")


KEYS: dict[str, Key] = {
    "handler": Key(
        checks.handler,
        "(required)",
        "What to call: module and attribute, relative to the folder of jiffy.toml; a program needs none.",
    ),
    "runtime": Key(checks.runtime, '"python3"', "The language and its version."),
    "memory_mb": Key(
        checks.integer(limits.MEMORY_MIN_MB, limits.MEMORY_MAX_MB),
        str(limits.MEMORY_DEFAULT_MB),
        "What one instance may use; the unit of the price, too.",
    ),
    "timeout_s": Key(
        checks.seconds(limits.TIMEOUT_MIN_S, limits.TIMEOUT_MAX_S),
        f"{limits.TIMEOUT_DEFAULT_S:g}",
        "How long the handler may run before its instance is killed.",
    ),
    "max_instances": Key(
        checks.integer(1, limits.INSTANCES_MAX),
        str(limits.INSTANCES_DEFAULT),
        "How many calls may run at the same time on one host.",
    ),
    "min_instances": Key(
        checks.integer(0, limits.INSTANCES_MAX),
        "0",
        "How many instances each host keeps ready at all times.",
    ),
    "reuse": Key(
        checks.choice("always", "never"),
        '"always"',
        "May an instance serve several calls, or each has its own?",
    ),
    "max_requests": Key(
        checks.integer(0, limits.REQUESTS_MAX), "0", "After so many calls an instance is replaced; 0: it stays."
    ),
    "network": Key(
        checks.boolean, "false", "May it open connections to the outside? Needs a host whose sandboxes are Docker's."
    ),
    "public": Key(checks.boolean, "false", "May anyone call its URL and routes, without the platform's API key?"),
    "env": Key(checks.env, "{}", "Environment variables."),
    "routes": Key(checks.routes, "[]", 'HTTP routes, such as "GET /hello/{name}"; /function/NAME always works.'),
    "description": Key(checks.text(256), '""', "One line for people."),
    "triggers": Key(
        triggers.check, "[]", "What else calls the function, and what is done about requests: docs/events.md."
    ),
    "retries": Key(
        checks.integer(0, limits.RETRIES_MAX),
        str(limits.RETRIES_DEFAULT),
        "How often an asynchronous call that fails is tried again.",
    ),
    "max_age_s": Key(
        checks.seconds(limits.MAX_AGE_MIN_S, limits.MAX_AGE_MAX_S),
        f"{limits.ASYNC_WAIT_MAX_S:g}",
        "How old an asynchronous call may be when an attempt begins; then it is a dead letter.",
    ),
    "backoff_s": Key(
        checks.seconds(limits.BACKOFF_MIN_S, limits.BACKOFF_MAX_S),
        f"{limits.BACKOFF_DEFAULT_S:g}",
        "The longest pause before the first retry; each further one may be twice as long, at most an hour.",
    ),
    "result_keep_s": Key(
        checks.seconds(limits.RESULT_KEEP_MIN_S, limits.RESULT_KEEP_MAX_S),
        str(limits.RESULT_KEEP_S),
        "How long the result of an asynchronous call can be read.",
    ),
    "on_success": Key(checks.destination, '""', "Who is told when an asynchronous call has its result."),
    "on_failure": Key(checks.destination, '""', "Who is told when one is dead."),
    "tags": Key(checks.tags, "{}", "What calls are added up by in the bill: `jiffy bill --by tag:team`."),
    "stream": Key(
        checks.boolean,
        "false",
        "Does the answer go out piece by piece, as the handler yields it? Python only; docs/functions.md.",
    ),
    "slim": Key(checks.boolean, "false", "Leave out of the image what the function can't reach? docs/images.md."),
    "keep": Key(checks.modules, "[]", "Modules of the standard library that a slim image keeps all the same."),
    "test_event": Key(
        checks.inside,
        '""',
        "Events to run the handler with when a slim image is built, which then holds what that loaded.",
    ),
    "whole": Key(checks.packages, "[]", "Packages of which nothing is left out, tests and all."),
    "image": Key(checks.image, '""', 'The image that is run; for runtime = "image": docs/runtimes.md.'),
    "entrypoint": Key(checks.words, "[]", "What is started, in place of the image's own ENTRYPOINT and CMD."),
    "command": Key(checks.words, "[]", "Its arguments, in place of the image's CMD."),
    "http_port": Key(
        checks.integer(0, 65535), "0", "Where the image serves HTTP; 0: it is a client of the Lambda Runtime API."
    ),
}


def check_name(name: object, what: str = "function") -> str:
    """`name` if it may name a function or tenant. Raises SpecError."""
    if not isinstance(name, str) or len(name) > limits.NAME_MAX_CHARS or not _NAME.fullmatch(name):
        article = "an" if what[0] in "aeiou" else "a"
        raise SpecError(
            f"{name!r} can't name {article} {what}: use lower-case letters, digits and single hyphens, a letter first, "
            f"at most {limits.NAME_MAX_CHARS} characters"
        )
    return name


def parse_function(name: object, table: object, where: str = "jiffy.toml") -> FunctionSpec:
    """The spec in one table. Raises SpecError with a line for every mistake, which names `where` and the key, what was
    found and what is allowed.
    """
    try:
        name = check_name(name)
    except SpecError as exc:
        raise SpecError(f"{where}: [functions.{name}]: {exc.message}") from None
    place = f"{where}: [functions.{name}]"
    if not isinstance(table, Mapping):
        raise SpecError(f"{place} must be a table, not {_found(table)}")
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for key, value in table.items():
        if key not in KEYS:
            mistakes.append(f"{place}: unknown key {key!r}{_closest(str(key), KEYS)}; allowed: {', '.join(KEYS)}")
            continue
        try:
            values[key] = KEYS[key].check(value)
        except triggers.TriggerError as exc:
            mistakes.append(f"{where}: [[functions.{name}.triggers]] {exc}")
        except checks.Complaint as exc:
            mistakes.append(f"{place}: {key}: {exc}")
        except ValueError as exc:
            found = f"a {type(value).__name__}" if key in SECRET else _found(value)
            mistakes.append(f"{place}: {key} = {found}; allowed: {exc}")
    program = values.get("runtime") in PROGRAMS
    if program:
        values.setdefault("handler", checks.BOOTSTRAP)
    if "handler" not in table and not program:
        mistakes.append(f'{place}: handler is missing; add handler = "module:attribute"')
    elif values.get("handler") == checks.BOOTSTRAP and not program:
        mistakes.append(f'{place}: handler = "{checks.BOOTSTRAP}" is for runtime = "provided"')
    if values.get("stream") and language(values.get("runtime", "python3")) != "python":
        mistakes.append(f"{place}: stream = true; allowed: false, as only Python's functions answer piece by piece")
    foreign = values.get("runtime") == "image"
    if foreign and not values.get("image"):
        mistakes.append(f'{place}: image is missing; add image = "archive:app.tar", or one of an engine or a registry')
    for key in () if foreign else IMAGE_KEYS:
        if values.get(key):
            mistakes.append(f'{place}: {key} is for runtime = "image"')
    low, high = values.get("min_instances", 0), values.get("max_instances", limits.INSTANCES_DEFAULT)
    if low > high:
        mistakes.append(f"{place}: min_instances = {low}; allowed: at most max_instances, which is {high}")
    if unset := triggers.unset(values.get("triggers", ()), values.get("env", {})):
        mistakes.append(f"{where}: [[functions.{name}.triggers]] {unset}")
    try:
        edges.every_route(values.get("routes", ()), values.get("triggers", ()))
    except ValueError as exc:
        mistakes.append(f"{place}: {exc}")
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return FunctionSpec(name=name, **({"env": {}, "tags": {}} | values))


def language(runtime: str) -> str:
    """A runtime's name without its version: "python", "nodejs", "provided"."""
    return runtime.rstrip("0123456789.")


def tags_text(tags: Mapping[str, str]) -> str:
    """Tags as usage records carry them: "stage=prod,team=x"."""
    return ",".join(f"{key}={tags[key]}" for key in sorted(tags))


def parse_toml(text: str, where: str = "jiffy.toml") -> tuple[FunctionSpec, ...]:
    """All functions of a jiffy.toml, in its order. Raises SpecError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{where}: not valid TOML: {exc}") from None
    for key in document:
        if key != "functions":
            raise SpecError(
                f"{where}: unknown key {key!r}{_closest(key, ['functions'])}; allowed: [functions.NAME] tables"
            )
    functions = document.get("functions")
    if not isinstance(functions, dict) or not functions:
        raise SpecError(f'{where} declares no function; add [functions.hello] with handler = "hello:handler"')
    specs = tuple(parse_function(name, table, where) for name, table in functions.items())
    seen: dict[str, str] = {}
    for spec in specs:
        for route in spec.every_route:
            if route in seen:
                raise SpecError(
                    f"{where}: [functions.{spec.name}] and [functions.{seen[route]}] both declare {route!r}"
                )
            seen[route] = spec.name
    return specs


def _found(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _closest(key: str, keys: Any) -> str:
    close = difflib.get_close_matches(key, list(keys), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
