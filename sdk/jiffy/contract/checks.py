"""What each kind of value in jiffy.toml may be. Pure: a check returns the value it was given, made regular, or
raises ValueError with what is allowed. spec.KEYS says which key takes which check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from . import limits
from .routes import parse as parse_route

_HANDLER = re.compile(r"([A-Za-z_][\w-]*(?:[./][A-Za-z_][\w-]*)*)[:.]([A-Za-z_]\w*)")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,9}")
_PACKAGE = re.compile(r"(?:@[A-Za-z0-9._-]{1,64}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_RUNTIME = re.compile(r"python3(?:\.\d{1,2})?|nodejs(?:\d{2})?|provided|image")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9.\[\]:/_-]+(?:@sha256:[0-9a-f]{64})?")
BOOTSTRAP = "bootstrap"  # the handler of a function that is a program
_FUNCTION_TARGET = re.compile(r"function:[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAG_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]{1,64}")
RESERVED_ENV = ("AWS_LAMBDA_", "JIFFY_", "_HANDLER", "LAMBDA_", "LD_", "PYTHON")


class Complaint(ValueError):
    """Says what is wrong rather than what is allowed. It quotes no value that may be a secret."""


def text(longest: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"a string of at most {longest} characters")
        return value

    return check


def inside(value: Any) -> str:
    """A pattern of files in the function's folder; "" for none."""
    if (
        not isinstance(value, str)
        or len(value) > 256
        or not value.isprintable()
        or value.startswith("/")
        or {"..", "**"} & set(value.split("/"))
    ):
        raise ValueError('a file of the folder, or a pattern of some: "event.json", "events/*.json"')
    return value


def integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def seconds(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"a number of seconds from {low:.10g} to {high:.10g}")
        return float(value)

    return check


def choice(*names: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(" or ".join(f'"{name}"' for name in names))
        return value

    return check


def destination(value: Any) -> str:
    if value == "":
        return ""
    allowed = '"function:NAME", "https://…" or "http://…" ("" for none)'
    if not isinstance(value, str) or len(value) > limits.DESTINATION_MAX_CHARS:
        raise ValueError(allowed)
    if _FUNCTION_TARGET.fullmatch(value):
        return value
    try:
        url = urlsplit(value)
        well = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        well = False
    if not well or url.username is not None or not value.isascii() or any(c <= " " for c in value):
        raise ValueError(allowed)
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def handler(value: Any) -> str:
    if value == BOOTSTRAP:
        return BOOTSTRAP
    match = _HANDLER.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('"module:attribute", such as "hello:handler" (Lambda\'s "hello.handler" works too)')
    return f"{match[1].replace('/', '.')}:{match[2]}"


def runtime(value: Any) -> str:
    if not isinstance(value, str) or not _RUNTIME.fullmatch(value):
        raise ValueError(
            '"python3" (the one that Jiffy itself runs on), "nodejs" (the builder\'s own), '
            'one version, such as "python3.11" or "nodejs22", "provided", or "image"'
        )
    return value


def image(value: Any) -> str:
    if value == "":
        return ""
    if isinstance(value, str) and len(value) <= 512 and value.isprintable() and " " not in value:
        kind, _, name = value.partition(":")
        inside = name.removeprefix("./")
        if kind == "archive":
            if inside and not inside.startswith("/") and ".." not in inside.split("/"):
                return f"archive:{inside}"
        elif _IMAGE_NAME.fullmatch(name if kind == "docker" else value if "/" in value else ""):
            return value
    raise ValueError(
        '"archive:PATH" in the folder, "docker:NAME[:TAG]" of the engine, or "HOST/NAME[:TAG]" of a registry'
    )


def words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(w, str) and w and "\0" not in w for w in value):
        raise ValueError('a list of words, such as ["python3", "app.py"]')
    if sum(len(word.encode(errors="replace")) for word in value) > limits.ENV_MAX_BYTES:
        raise ValueError(f"words of at most {limits.ENV_MAX_BYTES} bytes together")
    return tuple(value)


def env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError('a table of strings, such as { GREETING = "hello" }')
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise Complaint(f"{name!r} can't name a variable: use letters, digits and underscores, no digit first")
        if name.startswith(RESERVED_ENV):
            raise Complaint(f"{name!r} is reserved: a name may not begin with {', '.join(RESERVED_ENV)}")
        if not isinstance(text, str):
            raise Complaint(f"{name} must be a string, not {type(text).__name__}: put it in quotes")
        if "\0" in text:
            raise Complaint(f"the value of {name} has a NUL byte in it")
    size = sum(len(k.encode(errors="replace")) + len(v.encode(errors="replace")) for k, v in value.items())
    if size > limits.ENV_MAX_BYTES:
        raise Complaint(f"names and values have {size} bytes; at most {limits.ENV_MAX_BYTES} are allowed")
    return dict(value)


def routes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(r, str) for r in value):
        raise ValueError('a list of strings, such as ["GET /hello/{name}"]')
    if len(value) > limits.ROUTES_MAX:
        raise ValueError(f"at most {limits.ROUTES_MAX} routes")
    try:
        keys = [parse_route(text).key for text in value]
    except ValueError as exc:
        raise Complaint(str(exc)) from None
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise Complaint(f"{twice!r} stands there twice")
    return tuple(keys)


def tags(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('a table of strings, such as { team = "x" }')
    if len(value) > limits.TAGS_MAX:
        raise ValueError(f"at most {limits.TAGS_MAX} tags")
    for name, text in value.items():
        if not isinstance(name, str) or not _TAG_NAME.fullmatch(name):
            raise ValueError(f"names of lower-case letters, digits, _ and -, a letter first, not {str(name)[:40]!r}")
        if not _TAG_VALUE.fullmatch(text):
            raise ValueError(f"values of 1 to 64 letters, digits and . _ : / @ + -, not {text[:80]!r}")
    return dict(value)


def names(kind: re.Pattern[str], what: str) -> Callable[[Any], tuple[str, ...]]:
    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(m, str) and kind.fullmatch(m) for m in value):
            raise ValueError(what)
        if len(value) > limits.KEEP_MAX:
            raise ValueError(f"at most {limits.KEEP_MAX} names")
        return tuple(value)

    return check


modules = names(_MODULE, 'a list of modules, such as ["ssl", "email.mime"]')
packages = names(_PACKAGE, 'a list of packages, such as ["numpy"]')
