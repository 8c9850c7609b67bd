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

from . import limits, routes
from .errors import SpecError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_HANDLER = re.compile(r"([A-Za-z_]\w*(?:[./][A-Za-z_]\w*)*)[:.]([A-Za-z_]\w*)")
_RUNTIME = re.compile(r"python3(?:\.\d{1,2})?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED_ENV = ("AWS_LAMBDA_", "JIFFY_", "_HANDLER", "LAMBDA_", "LD_", "PYTHON")


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One ``[functions.NAME]`` table, complete and valid. See KEYS for units and bounds."""

    name: str
    handler: str  # "module:attribute", dotted module
    runtime: str = "python3"
    memory_mb: int = limits.MEMORY_DEFAULT_MB
    timeout_s: float = limits.TIMEOUT_DEFAULT_S
    max_instances: int = limits.INSTANCES_DEFAULT
    network: bool = False
    env: Mapping[str, str] = ()  # type: ignore[assignment]
    routes: tuple[str, ...] = ()
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; ``parse_function(spec.name, spec.to_dict())`` gives the spec back."""
        values = asdict(self)
        values.pop("name")
        return values | {"env": dict(self.env), "routes": list(self.routes)}


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


def _text(longest: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"a string of at most {longest} characters")
        return value

    return check


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}")
        return float(value)

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _handler(value: Any) -> str:
    match = _HANDLER.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('"module:attribute", such as "hello:handler" (Lambda\'s "hello.handler" works too)')
    return f"{match[1].replace('/', '.')}:{match[2]}"


def _runtime(value: Any) -> str:
    if not isinstance(value, str) or not _RUNTIME.fullmatch(value):
        raise ValueError('"python3" (the newest there is) or one version, such as "python3.11"')
    return value


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('a table of strings, such as { GREETING = "hello" }')
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise ValueError(f"names of letters, digits and underscores, not {name!r}")
        if name.startswith(RESERVED_ENV):
            raise ValueError(f"names that do not begin with {', '.join(RESERVED_ENV)}, as {name!r} does")
        if "\0" in text:
            raise ValueError(f"values without NUL bytes, unlike that of {name!r}")
    if sum(len(k.encode()) + len(v.encode()) for k, v in value.items()) > limits.ENV_MAX_BYTES:
        raise ValueError(f"at most {limits.ENV_MAX_BYTES} bytes of names and values")
    return dict(value)


def _routes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(r, str) for r in value):
        raise ValueError('a list of strings, such as ["GET /hello/{name}"]')
    if len(value) > limits.ROUTES_MAX:
        raise ValueError(f"at most {limits.ROUTES_MAX} routes")
    keys = [routes.parse(text).key for text in value]
    if len(set(keys)) != len(keys):
        raise ValueError("each route once")
    return tuple(keys)


KEYS: dict[str, Key] = {
    "handler": Key(_handler, "(required)", "What to call: module and attribute, relative to the folder of jiffy.toml."),
    "runtime": Key(_runtime, '"python3"', "The language and its version."),
    "memory_mb": Key(
        _integer(limits.MEMORY_MIN_MB, limits.MEMORY_MAX_MB),
        str(limits.MEMORY_DEFAULT_MB),
        "What one instance may use; the unit of the price, too.",
    ),
    "timeout_s": Key(
        _seconds(limits.TIMEOUT_MIN_S, limits.TIMEOUT_MAX_S),
        f"{limits.TIMEOUT_DEFAULT_S:g}",
        "How long the handler may run before its instance is killed.",
    ),
    "max_instances": Key(
        _integer(1, limits.INSTANCES_MAX),
        str(limits.INSTANCES_DEFAULT),
        "How many calls may run at the same time.",
    ),
    "network": Key(
        _boolean, "false", "May it open connections to the outside? Needs a host whose sandboxes are Docker's."
    ),
    "env": Key(_env, "{}", "Environment variables."),
    "routes": Key(_routes, "[]", 'HTTP routes, such as "GET /hello/{name}"; /function/NAME always works.'),
    "description": Key(_text(256), '""', "One line for people."),
}


def check_name(name: object, what: str = "function") -> str:
    """`name` if it may name a function or tenant. Raises SpecError."""
    if not isinstance(name, str) or len(name) > limits.NAME_MAX_CHARS or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} can't name a {what}: use lower-case letters, digits and single hyphens, a letter first, "
            f"at most {limits.NAME_MAX_CHARS} characters"
        )
    return name


def parse_function(name: object, table: object, where: str = "jiffy.toml") -> FunctionSpec:
    """The spec in one table. Raises SpecError naming `where`, the key, what was found and what is allowed."""
    try:
        name = check_name(name)
    except SpecError as exc:
        raise SpecError(f"{where}: [functions.{name}]: {exc.message}") from None
    place = f"{where}: [functions.{name}]"
    if not isinstance(table, Mapping):
        raise SpecError(f"{place} must be a table, not {_found(table)}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise SpecError(f"{place}: unknown key {key!r}{_closest(str(key), KEYS)}; allowed: {', '.join(KEYS)}")
        try:
            values[key] = KEYS[key].check(value)
        except ValueError as exc:
            raise SpecError(f"{place}: {key} = {_found(value)}; allowed: {exc}") from None
    if "handler" not in values:
        raise SpecError(f'{place}: handler is missing; add handler = "module:attribute"')
    return FunctionSpec(name=name, **({"env": {}} | values))


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
        for route in spec.routes:
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
