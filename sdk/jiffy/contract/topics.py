"""Names of topics, and patterns of them: ``orders.paid``, ``orders.*``, ``*``. Pure."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9][a-z0-9-]*)*")
_PATTERN = re.compile(r"(?:[a-z0-9][a-z0-9-]*|\*)(?:\.(?:[a-z0-9][a-z0-9-]*|\*))*")
CHARS_MAX = 128
DEAD = "dead."  # topics of events that failed: only patterns that begin so match them, or failures would go round


def check_name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > CHARS_MAX or not _NAME.fullmatch(name):
        raise ValueError(f'a topic such as "orders" or "orders.paid", at most {CHARS_MAX} characters')
    return name


def check_pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or len(pattern) > CHARS_MAX or not _PATTERN.fullmatch(pattern):
        raise ValueError('a topic such as "orders.paid", or a pattern such as "orders.*" or "*"')
    return pattern


def matches(pattern: str, name: str) -> bool:
    """A star stands for one part, the last one for all parts that are left."""
    if name.startswith(DEAD) and not pattern.startswith(DEAD):
        return False
    wanted, parts = pattern.split("."), name.split(".")
    if len(parts) < len(wanted) or (len(parts) > len(wanted) and wanted[-1] != "*"):
        return False
    return all(one in ("*", part) for one, part in zip(wanted, parts, strict=False))
