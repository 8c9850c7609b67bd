"""One table of endpoints: the router is built from it, and /openapi.json too, so the document can't drift from the app.

Each file in routes/ contributes its rows. The calls themselves (/function/{name}, invocations) are rows as well,
though app.py takes them on a shorter way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from jiffy.contract import spec
from jiffy.contract.access import Role

Handler = Callable[[Request], Awaitable[Response]]

_ERROR = {"$ref": "#/components/schemas/Error"}
_ERRORS = {
    "400": "The request is malformed; the message says where.",
    "401": "No API key, or a wrong one.",
    "402": "A hard budget is used up; Retry-After says when it starts anew.",
    "403": "The key's role does not allow it.",
    "404": "There is no such thing.",
    "409": "What is asked for contradicts what is there.",
    "413": "Larger than allowed.",
    "422": "The Idempotency-Key came before with another request.",
    "429": "A limit is reached; Retry-After says when to try again.",
    "502": "The function failed, or the platform failed it.",
    "503": "No queue, invoker or builder answers; Retry-After says when to try again.",
    "504": "The function ran out of time, or nothing came back in time.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation. `handler` is None where app.py calls routes/invoke.py without Starlette."""

    method: str  # or "ANY"
    path: str  # as Starlette writes it
    handler: Handler | None
    summary: str
    query: dict[str, str] = field(default_factory=dict)  # parameter → meaning
    body: str = ""  # content type of what is sent
    status: str = "200"
    answer: str = "application/json"
    errors: tuple[str, ...] = ()
    open: bool = False  # works without an API key
    role: Role | None = None  # what a key must allow; None: read for what only looks, deploy for the rest

    @property
    def needs(self) -> Role:
        return self.role or (Role.READ if self.method in ("GET", "HEAD") else Role.DEPLOY)


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operations = paths.setdefault(endpoint.path.replace(":path}", "}"), {})
        for method in _methods(endpoint.method):
            operations[method] = _operation(endpoint, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Jiffy", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "security": [{"bearer": []}, {"key": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
            "schemas": {"Error": _error_schema(), "Spec": _spec_schema()},
        },
    }


def _methods(method: str) -> tuple[str, ...]:
    return ("get", "head", "post", "put", "patch", "delete", "options") if method == "ANY" else (method.lower(),)


def _operation(endpoint: Endpoint, method: str) -> dict[str, Any]:
    path = [part[1:-1].removesuffix(":path") for part in endpoint.path.split("/") if part.startswith("{")]
    parameters = [{"name": p, "in": "path", "required": True, "schema": {"type": "string"}} for p in path]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in endpoint.query.items()
    ]
    done: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.answer and method != "head":
        done["content"] = {endpoint.answer: {}}
    responses: dict[str, Any] = {endpoint.status: done}
    for status in endpoint.errors if endpoint.open else ("401", "403", *endpoint.errors):
        responses[status] = {"description": _ERRORS[status], "content": {"application/json": {"schema": _ERROR}}}
    operation: dict[str, Any] = {"summary": endpoint.summary, "parameters": parameters, "responses": responses}
    if endpoint.body and method not in ("get", "head"):
        operation["requestBody"] = {"content": {endpoint.body: {}}}
    if endpoint.open:
        operation["security"] = []
    else:
        operation["x-jiffy-role"] = endpoint.needs.value
    return operation


def _error_schema() -> dict[str, Any]:
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "retry_after_s": {"type": "number"},
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _spec_schema() -> dict[str, Any]:
    properties = {name: {"description": f"{key.meaning} Default: {key.default}."} for name, key in spec.KEYS.items()}
    return {"type": "object", "required": ["handler"], "properties": properties, "additionalProperties": False}
