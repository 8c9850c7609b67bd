"""/v1/audit: do the books balance? What is counted: durable/audit.py."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.durable.audit import Books, Kept, audit
from gateway.openapi import Endpoint
from jiffy.contract.access import Role


class Audits:
    def __init__(self, kept: Kept, books: Books) -> None:
        self._kept = kept
        self._books = books

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/v1/audit", self.audit, "Every total counted anew.", errors=("503",), role=Role.ADMIN),
        )

    async def audit(self, request: Request) -> Response:
        found = await audit(self._kept, self._books)
        return JSONResponse(
            {
                "balanced": found.balanced,
                "checks": [
                    {
                        "check": check.name,
                        "tenant": check.tenant or None,
                        "expected": check.expected,
                        "found": check.found,
                        "balanced": check.balanced,
                    }
                    for check in found.checks
                ],
                "counters": found.tallies,
            }
        )
