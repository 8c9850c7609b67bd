"""Jiffy's Python SDK: ``from jiffy import Client``.

`Client` speaks the HTTP API; `jiffy.cli` is the command line, `jiffy up` included. `jiffy.contract` is what the
platform's processes share. Nothing in a function's sandbox depends on any of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads the client when it is asked for: every process of the platform imports this package, few need httpx."""
    if name == "Client":
        from .client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
