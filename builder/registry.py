"""Pushes an image to a registry, by the OCI distribution specification: blobs that it lacks, then the manifest.

The bytes go as they lie in the data folder, so the digest in the registry is the image's own. `keep` does the same for
single layers, for invokers on other hosts to pull. Its errors are one line: BuildFailed for what the caller can mend,
Unavailable otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from builder import image
from jiffy.contract.errors import BuildFailed, Unavailable
from jiffy.contract.registry import AUTH, MANIFEST, Challenge, Reference, Shelf, safe, token

_CHUNK = 1024 * 1024
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def push(data: Path, digest: str, to: Reference, basic: str, say: Callable[[str], None]) -> None:
    """Push the image `digest` of the data folder. `basic` opens the registry; `say` gets a line per part."""
    with _opened(to, basic) as client:
        _image(client, data, digest, to, say)


def keep(data: Path, shelf: Shelf, layers: Mapping[str, str], basic: str) -> int:
    """Push layers to the shelf that it lacks: digest of each → digest of its own image's manifest. How many it lacked.

    Every layer is asked for anew: a registry may have lost what it was given.
    """
    sent = 0
    with _opened(shelf.of(""), basic) as client:
        for digest, manifest in layers.items():
            to = shelf.of(digest)
            found = client.head(f"/v2/{to.name}/manifests/{to.tag}", headers={"accept": MANIFEST})
            if found.status_code != 200:
                _check(found, to, 404)
                _image(client, data, manifest, to, lambda _: None)
                sent += 1
    return sent


def docker_config(environ: Mapping[str, str]) -> str:
    """The text of Docker's configuration file; "" when there is none that can be read."""
    try:
        return Path(environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json").read_text()
    except (OSError, ValueError, RuntimeError):
        return ""


@contextmanager
def _opened(to: Reference, basic: str) -> Iterator[httpx.Client]:
    try:
        with httpx.Client(base_url=f"{to.scheme}://{to.host}", timeout=_TIMEOUT, follow_redirects=False) as client:
            client.auth = _Auth(basic, f"repository:{to.name}:pull,push", client.base_url)
            yield client
    except httpx.HTTPError as exc:
        raise Unavailable(f"the registry {to.host} doesn't answer: {exc}") from exc


def _image(client: httpx.Client, data: Path, digest: str, to: Reference, say: Callable[[str], None]) -> None:
    manifest = image.document(data, digest)
    for part in (manifest["config"], *manifest["layers"]):
        sent = _blob(client, to, image.blob_path(data, part["digest"]), part)
        say(f"{part['digest'][:19]}  {part['size']} bytes  {'sent' if sent else 'there already'}")
    content = image.blob_path(data, digest).read_bytes()
    answer = client.put(f"/v2/{to.name}/manifests/{to.tag}", content=content, headers={"content-type": MANIFEST})
    _check(answer, to, 201)


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
    if not location or not (_origin(where) == _origin(base) or safe(str(where))):
        raise BuildFailed(f"{to.host} names no place to upload to: location = {location!r:.200}")
    return where


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


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
            f"{to.host} refuses {to.name}: {told}; `docker login {to.host}` keeps the credentials it asks for, and "
            f"{AUTH} has those of a platform's registry"
        )
    raise BuildFailed(f"{to.host} refuses {to.name}:{to.tag}: {answer.status_code} {told}")


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
        if answer.status_code != 401 or request.method == "PUT":
            return
        challenge = Challenge.parse(answer.headers.get("www-authenticate", ""))
        if challenge.kind == "basic" and self._basic:
            self._header = f"Basic {self._basic}"
        elif challenge.kind == "bearer":
            known = {"authorization": f"Basic {self._basic}"} if self._basic else {}
            told = yield httpx.Request("GET", challenge.token_url(self._scope), headers=known)
            self._header = f"Bearer {token(told.json() if told.status_code == 200 else None)}"
        else:
            return
        request.headers["authorization"] = self._header
        yield request
