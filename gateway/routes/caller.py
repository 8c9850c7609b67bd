"""Whom a request acts for. app.py has found that out before a route's handler sees the request."""

from __future__ import annotations

from starlette.requests import Request

from gateway.keyring import Caller


def of(request: Request) -> Caller:
    caller = request.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


def tenant(request: Request) -> str:
    """Whose things these are; what is another's is not there."""
    return of(request).tenant
