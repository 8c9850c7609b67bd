"""A request to a route of an ``http`` trigger: what the gateway does about it before a function runs, in its stead, and
with its answer.

    the page allowed? the key? → rate → a fixed response, or: body within its bound → the call → ETag, gzip, CORS

Requests to functions without such triggers never come here. What is declared: jiffy.contract.edges. CORS: cors.py;
ETag and gzip: representation.py; rates: rates.py; the call: routes/invoke.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from gateway import cors
from gateway.admission import acting, read_head
from gateway.asgi import Receive, Response, Scope, Send, error_response, reply
from gateway.catalog import Function
from gateway.hosts import Hosts
from gateway.keyring import Keyring
from gateway.rates import Counted, Rates
from gateway.representation import represent
from gateway.routes.invoke import Invoke, Target
from jiffy.contract.access import Role
from jiffy.contract.edges import Edge, Fixed
from jiffy.contract.errors import JiffyError

_SAFE = "/%:@!$&'()*+,;=-._~"  # what may stand in a path as it is


class Edges:
    """All http triggers of one gateway. `keys` and `hosts`: see admission.read_head."""

    def __init__(self, invoke: Invoke, rates: Rates, keys: Keyring | None, hosts: Hosts | None) -> None:
        self._invoke = invoke
        self._rates = rates
        self._keys = keys
        self._hosts = hosts
        self._for_pages = hosts.for_pages() if hosts else None

    async def http(self, scope: Scope, receive: Receive, send: Send, target: Target, edge: Edge) -> None:
        """Answer one request. Raises ClientGone."""
        origin = cors.find(scope["headers"], b"origin").decode("latin-1") if edge.cors else ""
        try:
            await self._answer(scope, receive, send, target, edge, origin)
        except JiffyError as exc:
            await reply(scope, send, _marked(edge, origin, error_response(exc)))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, target: Target, edge: Edge, origin: str
    ) -> None:
        function = target.function
        welcome = edge.cors is not None and edge.cors.allows(origin)  # whoever deployed the function let this page in
        hosts = self._for_pages if welcome else self._hosts
        head = read_head(scope["headers"], self._keys, hosts)
        if not function.revision.public:
            acting(head.caller, function.tenant, scope["headers"]).need(Role.INVOKE)
        if edge.rate_per_s:
            await self._rates.take(Counted(function.tenant, function.name, edge), scope)
        finish = _Finish(edge, scope, origin)
        if edge.fixed is None:
            await self._invoke.http(scope, receive, send, head, target, edge.body_max_bytes, finish)
            return
        await reply(scope, send, await finish.whole(fixed(edge.fixed, function, target.parameters or {}, scope)))


def fixed(response: Fixed, function: Function, parameters: Mapping[str, str], scope: Scope) -> Response:
    """A response that needs no call. A redirect keeps the request's query, unless it has one of its own."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"jiffy-revision", function.number))
    if not response.to:
        return response.status, headers, response.body
    to = response.to
    for name, value in parameters.items():
        put = quote(value, safe=_SAFE)
        to = to.replace(f"{{{name}}}", put).replace(f"{{{name}+}}", put)
    if to.startswith("/"):
        to = "/" + to.lstrip("/")  # "//host" would lead off this site, wherever the asker wants
    query = scope["query_string"].decode("latin-1")
    if query and "?" not in response.to:
        to += "?" + quote(query, safe=_SAFE + "?")
    headers.append((b"location", to.encode("ascii")))
    return response.status, headers, b""


class _Finish(NamedTuple):
    """What becomes of a function's response on this route: see streamed.Finish."""

    edge: Edge
    scope: Scope
    origin: str

    async def whole(self, response: Response) -> Response:
        return _marked(self.edge, self.origin, await represent(self.edge, self.scope, response))

    def head(self, response: Response) -> Response:
        """What is streamed has no ETag, and packing would keep pieces back."""
        return _marked(self.edge, self.origin, response)


def _marked(edge: Edge, origin: str, response: Response) -> Response:
    return cors.marked(edge.cors, origin, response) if edge.cors else response
