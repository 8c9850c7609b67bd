"""Pushes an image to a registry, by the OCI distribution specification: blobs that it lacks, then the manifest.

The bytes go as they lie in the data folder, so the digest in the registry is the image's own. Credentials come from
Docker's configuration file. Its errors are one line: BuildFailed for what the caller can mend, Unavailable otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder import image
from jiffy.contract.errors import BuildFailed, InvalidRequest, Unavailable

_CHUNK = 1024 * 1024
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/"
    r"(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)
_LOOPBACK = re.compile(r"(?:localhost|127\.[\d.]+|\[::1\])(?::\d+)?")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image goes: ``registry.example:5000/team/hello:1``."""

    host: str
    name: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"{text!r} names no place in a registry; write HOST[:PORT]/NAME[:TAG], in lower case")
        return cls(match["host"], match["name"], match["tag"] or "latest")

    @property
    def scheme(self) -> str:
        """Plain HTTP on this machine alone, as Docker does."""
        return "http" if _LOOPBACK.fullmatch(self.host) else "https"


def push(data: Path, digest: str, to: Reference, docker_config: Path, say: Callable[[str], None]) -> None:
    """Push the image `digest` of the data folder. `say` gets a line per part."""
    manifest = image.document(data, digest)
    parts = [manifest["config"], *manifest["layers"]]
    try:
        with httpx.Client(base_url=f"{to.scheme}://{to.host}", timeout=_TIMEOUT, follow_redirects=False) as client:
            client.auth = _Auth(
                _credentials(docker_config, to.host), f"repository:{to.name}:pull,push", client.base_url
            )
            for part in parts:
                sent = _blob(client, to, image.blob_path(data, part["digest"]), part)
                say(f"{part['digest'][:19]}  {part['size']} bytes  {'sent' if sent else 'there already'}")
            content = image.blob_path(data, digest).read_bytes()
            answer = client.put(
                f"/v2/{to.name}/manifests/{to.tag}", content=content, headers={"content-type": _MANIFEST}
            )
            _check(answer, to, 201)
    except httpx.HTTPError as exc:
        raise Unavailable(f"the registry {to.host} doesn't answer: {exc}") from exc


def _blob(client: httpx.Client, to: Reference, path: Path, part: dict[str, Any]) -> bool:
    """True when it had to be sent."""
    found = client.head(f"/v2/{to.name}/blobs/{part['digest']}")
    if found.status_code == 200:
        return False
    _check(found, to, 404)
    begun = client.post(f"/v2/{to.name}/blobs/uploads/")
    _check(begun, to, 202)
    where = _upload(client.base_url, begun.headers.get("location", ""), to).copy_merge_params(
        {"digest": part["digest"]}
    )
    headers = {"content-type": "application/octet-stream", "content-length": str(part["size"])}
    _check(client.put(where, content=_pieces(path), headers=headers), to, 201)
    return True


def _upload(base: httpx.URL, location: str, to: Reference) -> httpx.URL:
    """Where a registry wants a blob. Raises BuildFailed: it doesn't say, or says a place without encryption."""
    try:
        where = base.join(location)
    except (httpx.InvalidURL, ValueError):
        location = ""
    if not location or not (_origin(where) == _origin(base) or _safe(where)):
        raise BuildFailed(f"{to.host} names no place to upload to: location = {location!r:.200}")
    return where


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _safe(url: httpx.URL) -> bool:
    """May something be sent there that others must not read?"""
    return url.scheme == "https" or (url.scheme == "http" and bool(_LOOPBACK.fullmatch(url.netloc.decode())))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _check(answer: httpx.Response, to: Reference, wanted: int) -> None:
    if answer.status_code == wanted:
        return
    try:
        told = str(answer.json()["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        told = answer.reason_phrase
    if answer.status_code in (401, 403):
        raise BuildFailed(
            f"{to.host} refuses {to.name}: {told}; `docker login {to.host}` keeps the credentials it asks for"
        )
    raise BuildFailed(f"{to.host} refuses {to.name}:{to.tag}: {answer.status_code} {told}")


def _credentials(config: Path, host: str) -> str:
    """``user:password`` in base64, as `docker login` keeps it; "" when there is none."""
    try:
        entry = json.loads(config.read_text())["auths"][host]
        return str(entry.get("auth", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""


class _Auth(httpx.Auth):
    """Answers a registry's challenge: Basic with the credentials, Bearer with a token that they fetch.

    What opens the registry goes to its own origin alone; an upload's location may be another host's.
    """

    requires_response_body = True

    def __init__(self, basic: str, scope: str, registry: httpx.URL) -> None:
        self._basic, self._scope, self._origin = basic, scope, _origin(registry)
        self._header = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) != self._origin:
            yield request
            return
        if self._header:
            request.headers["authorization"] = self._header
        if request.method == "PUT" and not self._header and self._basic:
            request.headers["authorization"] = f"Basic {self._basic}"  # a body can't be sent twice
        answer = yield request
        challenge = answer.headers.get("www-authenticate", "")
        if answer.status_code != 401 or request.method == "PUT":
            return
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._basic:
            self._header = f"Basic {self._basic}"
        elif kind.lower() == "bearer":
            asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            known = {"authorization": f"Basic {self._basic}"} if self._basic else {}
            realm = _realm(asked.get("realm", ""))
            query = {"service": asked.get("service", ""), "scope": self._scope}
            token = yield httpx.Request("GET", realm.copy_merge_params(query), headers=known)
            found = token.json() if token.status_code == 200 else {}
            self._header = f"Bearer {found.get('token') or found.get('access_token') or ''}"
        else:
            return
        request.headers["authorization"] = self._header
        yield request


def _realm(text: str) -> httpx.URL:
    """Where credentials are changed for a token. Raises BuildFailed: others could read them on their way."""
    try:
        realm = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise BuildFailed(f"the registry asks for a token from {text!r:.200}, which is no address") from exc
    if not _safe(realm):
        raise BuildFailed(f"the registry asks for a token from {text!r:.200}; credentials go by https only")
    return realm
