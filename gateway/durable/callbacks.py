"""``https://…``: a destination that is called back by HTTP, signed after the Standard Webhooks scheme.

Who deploys a function chooses the address, so it is hostile: a name is resolved here, every address it has must be
public (or in a network that the operator allows), and the connection goes to that very address, so that no second
look-up can lead elsewhere. No redirect is followed, no answer's body is read.

Signature: https://www.standardwebhooks.com, webhook-id, webhook-timestamp, webhook-signature = "v1," + base64 of
HMAC-SHA256 over "id.timestamp.body" with the tenant's secret.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx

from jiffy import __version__
from jiffy.contract.errors import InvalidRequest, PlatformError, Throttled
from jiffy.contract.messages import Delivery

CALL_MAX_S = 15.0  # for all of a callback: a receiver queues its work, it does not do it meanwhile
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Secrets(Protocol):
    """Where signing secrets are; `delivery_store.DeliveryStore` is one. Raises Unavailable."""

    async def secret(self, tenant: str) -> str: ...


class HttpTarget:
    """`allowed`: networks that callbacks may reach though they are not public."""

    def __init__(self, secrets: Secrets, now_ms: Callable[[], int], allowed: Sequence[Network] = ()) -> None:
        self._secrets = secrets
        self._now_ms = now_ms
        self.allowed = tuple(allowed)
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def deliver(self, delivery: Delivery, event: bytes) -> None:
        if self._client is None:
            limits = httpx.Limits(max_keepalive_connections=0)  # a connection is checked for one name only
            self._client = httpx.AsyncClient(trust_env=False, timeout=CALL_MAX_S, limits=limits)
        timestamp = self._now_ms() // 1000
        headers = {
            "content-type": "application/json",
            "user-agent": f"jiffy/{__version__}",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(await self._secrets.secret(delivery.tenant), delivery.id, timestamp, event),
        }
        try:
            async with asyncio.timeout(CALL_MAX_S):
                status, retry_after = await self._post(self._client, delivery.target, headers, event)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as exc:
            raise PlatformError(f"{_public(delivery.target)} can't be reached: {exc or type(exc).__name__}") from exc
        except ValueError as exc:  # a host that no name service takes, such as one with a label of 64 letters
            raise InvalidRequest(f"{_public(delivery.target)} can't be called: {exc}") from exc
        if not 200 <= status < 300:
            text = f"{_public(delivery.target)} answered {status}"
            raise Throttled(text, retry_after_s=retry_after) if retry_after else PlatformError(text)

    async def _post(
        self, client: httpx.AsyncClient, target: str, headers: dict[str, str], event: bytes
    ) -> tuple[int, float]:
        """(status, seconds of Retry-After or 0)"""
        url = urlsplit(target)
        assert url.hostname is not None  # checks.destination
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await self._resolve(url.hostname, port)
        host = f"[{address}]" if address.version == 6 else str(address)
        pinned = urlunsplit((url.scheme, f"{host}:{port}", url.path or "/", url.query, ""))
        extensions = {"sni_hostname": url.hostname}
        request = client.build_request(
            "POST", pinned, content=event, headers=headers | {"host": url.netloc}, extensions=extensions
        )
        answer = await client.send(request, stream=True)
        await answer.aclose()
        wait = answer.headers.get("retry-after", "")
        return answer.status_code, float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 8 else 0.0

    async def _resolve(self, host: str, port: int) -> Address:
        """The first address of `host`, all of which callbacks may reach. Raises InvalidRequest, OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        for address in addresses:
            if not reachable(address, self.allowed):
                raise InvalidRequest(
                    f"{host} is at {address}, which callbacks may not reach; "
                    "the operator can allow it: jiffy up --callbacks-to NETWORK"
                )
        return addresses[0]


def reachable(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Is this a public address, or in a network that the operator allows? An IPv4 address in IPv6 is what is in it."""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if any(address.version == network.version and address in network for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _UNICAST or any(address in network for network in _NO_HOSTS)
    ):
        return False
    return address.is_global and not address.is_multicast


_UNICAST = ipaddress.ip_network("2000::/3")  # all that is given to anybody: RFC 4291, 2.4; NAT64 is not in it
_NO_HOSTS = (
    ipaddress.ip_network("2001::/23"),  # protocols, Teredo among them, which leads to IPv4 addresses
    ipaddress.ip_network("2001:db8::/32"),  # documentation
    ipaddress.ip_network("2002::/16"),  # 6to4, which leads to IPv4 addresses
    ipaddress.ip_network("3fff::/20"),  # documentation
)


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


def _public(target: str) -> str:
    """An address without its query, which may hold a secret."""
    url = urlsplit(target)
    return urlunsplit((url.scheme, url.netloc, url.path, "", ""))
