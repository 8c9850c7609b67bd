"""Whom a request acts for. app.py has found that out before a route's handler sees the request."""

from __future__ import annotations

from starlette.requests import Request

from gateway.keyring import Caller
from jiffy.contract.errors import Forbidden


def of(request: Request) -> Caller:
    caller = request.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


def check_lock(request: Request, locked: bool, what: str) -> None:
    """Raises Forbidden when an admin set this, and the caller is none."""
    if locked and not of(request).admin:
        raise Forbidden(f"this {what} was set by an admin of the platform; it takes a key with the role admin")


def tenant(request: Request) -> str:
    """Whose things these are; what is another's is not there."""
    return of(request).tenant
