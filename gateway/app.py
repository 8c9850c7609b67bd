"""The outermost ASGI app: calls go straight to routes/invoke.py or direct.py, all else to a Starlette app for control.

/function/{name}[/…]                 a function's own URL
/t/{tenant}/…                        all of this for a stated tenant; else it is the key's, or the default one
/v1/functions/{name}/invocations     a call with a JSON event
/v1/… /healthz /metrics /openapi.json   control: Starlette, built from one table (openapi.py)
anything else                        a route that some function declares, or 404
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as StarletteResponse
from starlette.routing import BaseRoute, Route

from gateway import asgi, cors
from gateway.admission import PATH_MAX_BYTES, Head, acting, known, known_name, read_head
from gateway.asgi import ClientGone, Receive, Respond, Response, Scope, Send
from gateway.catalog import Catalog, Function
from gateway.edge import Edges
from gateway.hosts import Hosts
from gateway.keyring import Caller, Keyring, nobody
from gateway.openapi import Endpoint
from gateway.rates import Rates
from gateway.routes.caller import of
from gateway.routes.direct import Direct
from gateway.routes.invoke import Invoke, Target
from jiffy.contract.access import DEFAULT_TENANT, Role
from jiffy.contract.edges import Edge
from jiffy.contract.errors import InvalidRequest, JiffyError, MethodNotAllowed, NotFound, SpecError
from jiffy.contract.routes import Match
from jiffy.contract.spec import check_name

FUNCTION, CONTROL, TENANT = "/function/", "/v1/", "/t/"
FUNCTIONS, INVOCATIONS = "/v1/functions/", "/invocations"
HOOKS = "/v1/hooks/"
FIXED = ("/healthz", "/metrics", "/openapi.json", "/v1", "/function", "/t")


class App:
    """The gateway as ASGI sees it. `start` and `stop` run with the server's lifespan."""

    def __init__(
        self,
        *,
        invoke: Invoke,
        direct: Direct,
        rates: Rates,
        catalog: Catalog,
        control: Starlette,
        open_paths: Iterable[str],
        keys: Keyring | None,
        allow_hosts: Iterable[str] = (),
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._invoke = invoke
        self._direct = direct
        self._catalog = catalog
        self._control = control
        self._open = frozenset(open_paths)
        self._keys = keys
        self._hosts = None if keys else Hosts(allow_hosts)
        self._edges = Edges(invoke, rates, keys, self._hosts)
        self._start = start
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        try:
            await self._http(scope, receive, send)
        except JiffyError as exc:
            await asgi.reply_error(scope, send, exc)
        except ClientGone:
            return

    def whole(self, scope: Scope, body: bytes, respond: Respond) -> bool:
        """Take a call whose request is here whole (protocol.py), and `respond` when it ended or was accepted.

        False when it goes the ordinary way: what is no such call, what may have to be looked up, what is refused.
        """
        path = scope["raw_path"].decode("latin-1")
        direct = _is_direct(path) and scope["method"] == "POST"
        if not (direct or path.startswith(FUNCTION)) or len(path) + len(scope["query_string"]) > PATH_MAX_BYTES:
            return False
        try:
            head = read_head(scope["headers"], self._keys, self._hosts)
        except JiffyError:
            return False
        caller = head.caller
        tenant, may = (caller.tenant, Role.INVOKE in caller.rights) if caller else (DEFAULT_TENANT, False)
        if direct:
            function = self._catalog.get(tenant, path.split("/")[3]) if may else None
            return function is not None and self._direct.whole(scope, head, function, body, respond)
        name, rest = _function_path(scope, path)
        function = self._catalog.get(tenant, name)
        if function is None or function.own is not None or head.once or function.revision.stream:
            return False
        if not (function.revision.public or may):
            return False
        self._invoke.whole(scope, head, Target(function, rest), body, respond)
        return True

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if len(path) + len(scope["query_string"]) > PATH_MAX_BYTES:
            raise InvalidRequest(f"path and query have more than {PATH_MAX_BYTES} bytes")
        stated, path = _tenant(scope, path)
        if path in self._open or path.startswith(HOOKS):  # whose signature is their key
            if self._hosts is not None:
                read_head(scope["headers"], None, self._hosts)
            scope["caller"] = nobody(stated or DEFAULT_TENANT)
            await self._control(scope, receive, send)
            return
        caller = known(scope["headers"], self._keys)
        tenant = stated or (caller.tenant if caller else DEFAULT_TENANT)
        if (preflight := cors.asked(scope)) and (answer := self._preflight(scope, path, tenant, preflight)):
            await asgi.reply(scope, send, answer)
            return
        target = self._target(scope, scope["method"], path, tenant)
        if target is not None:
            await self._call(scope, receive, send, target)
            return
        head = read_head(scope["headers"], self._keys, self._hosts)
        caller = scope["caller"] = acting(head.caller, tenant, scope["headers"])
        if _is_direct(path):
            await self._invocations(scope, receive, send, head, path, caller)
        elif path.startswith(CONTROL) or path in FIXED:
            await self._control(scope, receive, send)
        elif path.startswith(FUNCTION):
            caller.need(Role.INVOKE)
            name, rest = _function_path(scope, path)  # not known here yet, perhaps
            known_name(name.partition(":")[0])
            function = await self._catalog.find_any(tenant, name)
            await self._call(scope, receive, send, Target(function, rest, edge=function.own))
        else:
            self._no_route(scope, path, tenant)

    async def _call(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        if target.edge is not None:
            await self._edges.http(scope, receive, send, target, target.edge)
            return
        head = read_head(scope["headers"], self._keys, self._hosts)
        if not target.function.revision.public:
            acting(head.caller, target.function.tenant, scope["headers"]).need(Role.INVOKE)
        await self._invoke.http(scope, receive, send, head, target)

    def _target(self, scope: Scope, method: str, path: str, tenant: str) -> Target | None:
        """The function whose URL or route this is, if it is known here: who has no key can't make us ask Redis."""
        if path.startswith(FUNCTION):
            name, rest = _function_path(scope, path)
            name, colon, alias = name.partition(":")
            function = self._catalog.named(tenant, name, alias) if colon else self._catalog.get(tenant, name)
            if function is None:
                return None
            edge = function.own
            return Target(function if colon else self._by(edge, function), rest, edge=edge)
        if path.startswith(CONTROL) or path in FIXED:
            return None
        found = self._find(scope, method, path, tenant)
        function = self._catalog.get(found.tenant, found.function) if isinstance(found, Match) else None
        if function is None or not isinstance(found, Match):
            return None
        key = found.route.key
        edge = function.edges.get(key)
        return Target(self._by(edge, function), scope["path"], key, found.parameters, edge)

    def _by(self, edge: Edge | None, function: Function) -> Function:
        """The revision that the route's trigger names by an alias, or the live one. Raises NotFound."""
        if edge is None or not edge.alias:
            return function
        named = self._catalog.named(function.tenant, function.name, edge.alias)
        if named is None:
            raise NotFound("this route calls an alias that is not there; `jiffy alias set` makes it")
        return named

    def _find(self, scope: Scope, method: str, path: str, tenant: str) -> Match | tuple[str, ...]:
        table = self._catalog.routes_of(tenant)
        return table.find(method, path, _host(scope) if table.by_host else "")

    def _preflight(self, scope: Scope, path: str, tenant: str, asked: cors.Preflight) -> Response | None:
        """The answer to a browser that asks whether a page may send a request. It comes without the key."""
        target = self._target(scope, asked.method, path, tenant)
        if target is None:  # a method that the route has not, perhaps: the answer says which it has
            allowed = self._find(scope, asked.method, path, tenant)
            if allowed and not isinstance(allowed, Match):
                target = self._target(scope, allowed[0], path, tenant)
        edge = target.edge if target else None
        return cors.answer(edge, edge.cors, asked) if edge and edge.cors else None

    async def _invocations(
        self, scope: Scope, receive: Receive, send: Send, head: Head, path: str, caller: Caller
    ) -> None:
        name = path.split("/")[3]
        if scope["method"] != "POST":
            raise MethodNotAllowed("call a function with POST", allow=("POST",))
        caller.need(Role.INVOKE)
        known_name(name.partition(":")[0])
        await self._direct.http(scope, receive, send, head, caller.tenant, name)

    def _no_route(self, scope: Scope, path: str, tenant: str) -> NoReturn:
        allowed = self._find(scope, scope["method"], path, tenant)
        if allowed and not isinstance(allowed, Match):
            raise MethodNotAllowed(f"this route takes {', '.join(allowed)}", allow=allowed)
        raise NotFound(f"there is nothing at {path[:200]}")

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise NotFound("this gateway speaks HTTP")
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _tenant(scope: Scope, path: str) -> tuple[str, str]:
    """(the tenant that the path states, or "", what follows); `scope` has then only what follows. Raises NotFound."""
    if not path.startswith(TENANT):
        return "", path
    tenant, slash, _ = path[len(TENANT) :].partition("/")
    try:
        check_name(tenant, "tenant")
    except SpecError as exc:
        raise NotFound(f"there is nothing at {path[:200]}") from exc
    before = len(TENANT) + len(tenant)  # a tenant's name has no escapes: it is as long in `path` as in `raw_path`
    scope["path"] = scope["path"][before:] if slash else "/"
    rest = path[before:] if slash else "/"
    scope["raw_path"] = rest.encode("latin-1")
    return tenant, rest


def _is_direct(path: str) -> bool:
    return path.startswith(FUNCTIONS) and path.endswith(INVOCATIONS) and path.count("/") == 4


def _host(scope: Scope) -> str:
    """The name that the request asks for, without its port."""
    name = cors.find(scope["headers"], b"host").decode("latin-1").lower()
    return name.partition(":")[0].rstrip(".")


def _function_path(scope: Scope, path: str) -> tuple[str, str]:
    """(name of the function, the path as it sees it)"""
    name, slash, _ = path[len(FUNCTION) :].partition("/")
    return name, scope["path"][len(FUNCTION) + len(name) :] if slash else "/"


def control(endpoints: Sequence[Endpoint]) -> Starlette:
    """The Starlette app of all endpoints that have a handler."""
    methods: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.handler is not None:
            methods.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    routes: list[BaseRoute] = [_route(path, table) for path, table in methods.items()]
    app = Starlette(
        routes=routes,
        exception_handlers={JiffyError: _on_error, HTTPException: _on_http_error},
    )
    app.router.redirect_slashes = False
    return app


def _route(path: str, table: dict[str, Endpoint]) -> Route:
    """One Starlette route per path, so that a wrong method is told all that are allowed."""

    async def endpoint(request: Request) -> StarletteResponse:
        found = table.get(request.method) or table["GET"]  # HEAD of a resource without one of its own
        assert found.handler is not None
        if not found.open:
            of(request).need(found.needs)
        return await found.handler(request)

    return Route(path, endpoint, methods=sorted(table))


async def _on_error(request: Request, exc: Exception) -> StarletteResponse:
    assert isinstance(exc, JiffyError)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in asgi.error_headers(exc)}
    return StarletteResponse(asgi.error_body(exc), exc.status, headers)


async def _on_http_error(request: Request, exc: Exception) -> StarletteResponse:
    assert isinstance(exc, HTTPException)
    error: JiffyError
    if exc.status_code == 404:
        error = NotFound(f"there is nothing at {request.url.path[:200]}")
    elif exc.status_code == 405:
        allow = tuple(m.strip() for m in (exc.headers or {}).get("Allow", "").split(",") if m.strip())
        error = MethodNotAllowed(f"{request.url.path[:200]} takes {', '.join(allow)}", allow=allow)
    else:
        error = InvalidRequest(str(exc.detail))
    return await _on_error(request, error)
