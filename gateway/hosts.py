"""Under which names a gateway without an API key may be spoken to: the wall against other people's web pages.

A browser on the same machine reaches loopback for any page that it shows, with a request that needs no answer (cross-
site POST) or under a name of the page's own that resolves to 127.0.0.1 (DNS rebinding). What tells such a request from
the user's own are the Host, Origin and Sec-Fetch-Site headers, which no page can forge. With a key there is nothing to
guard: no page knows it. Called for every request (admission.read_head), so what was found good is remembered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from jiffy.contract.errors import Forbidden

GUARDED = frozenset({b"host", b"origin", b"sec-fetch-site"})
_KNOWN_MAX = 256  # values remembered; a page that makes up ports must not fill the memory


class Hosts:
    """`allowed`: names beside those of loopback, such as the one that a proxy in front is called by."""

    __slots__ = ("_allowed", "_known", "_pages")

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(name.lower() for name in allowed)
        self._known: set[bytes] = set()
        self._pages = False

    def for_pages(self) -> Hosts:
        """The same for a request of a page that a function's `cors` allows: only its Host is looked at."""
        found = Hosts(self._allowed)
        found._pages = True
        return found

    def check(self, name: bytes, value: bytes) -> None:
        """One of the GUARDED headers. Raises Forbidden."""
        if self._pages and name != b"host":
            return
        if name == b"sec-fetch-site":
            if value.strip().lower() == b"cross-site":
                raise Forbidden("a page of another site may not call this platform: it has no API key (JIFFY_API_KEY)")
            return
        if value in self._known:
            return
        text = value.decode("latin-1").strip()
        if not self._ours(text.partition("://")[2] if name == b"origin" else text):
            what = "a page of" if name == b"origin" else "requests for"
            raise Forbidden(
                f"{what} {text[:100]!r} may not call this platform, which has no API key: use http://localhost:PORT, "
                "set JIFFY_API_KEY, or allow the name with --allow-host"
            )
        if len(self._known) < _KNOWN_MAX:
            self._known.add(value)

    def _ours(self, authority: str) -> bool:
        """Is this HOST[:PORT] a name of loopback, or allowed?"""
        host, colon, port = authority.rpartition(":")
        if not colon or authority.endswith("]"):
            host, port = authority, ""
        if port and not (port.isascii() and port.isdigit()):
            return False
        host = host.lower()
        if host == "localhost" or host in self._allowed:
            return True
        try:
            return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host).is_loopback
        except ValueError:
            return False
