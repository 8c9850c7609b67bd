"""Pulls single layers from a registry, by the OCI distribution specification: a manifest, then its one blob.

What arrives is believed in nothing: layers.py holds it against the layer's own digest. Every failure is Unavailable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from jiffy.contract.errors import BuildFailed, Unavailable
from jiffy.contract.registry import AUTH, MANIFEST, MANIFEST_MAX_BYTES, Challenge, Shelf, token

_TIMEOUT = 5.0  # of one read, which an invoker that is told to stop waits for; a transfer takes as long as it takes
_PLAIN = {"accept-encoding": "identity"}  # a layer is compressed as it is
_CHUNK = 1024 * 1024
_REDIRECTS_MAX = 5  # registries keep blobs elsewhere
_TEMPORARY = frozenset({408, 429})


class Registry:
    """One shelf, and what opens it. Safe to use from any thread."""

    def __init__(self, shelf: Shelf) -> None:
        """Raises InvalidRequest when credentials would travel in the clear."""
        self.id = shelf.id
        self._shelf = shelf
        try:
            config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json").read_text()
        except (OSError, ValueError, RuntimeError):  # none, or no home to look for one in
            config = ""
        self._basic = shelf.basic(os.environ, config)

    @contextmanager
    def blob(self, digest: str) -> Iterator[Iterator[bytes]]:
        """The compressed bytes of the layer with this digest. Raises Unavailable, within its use, too.

        `Unavailable.retry_after_s` is None where another try would find the same.
        """
        to = self._shelf.of(digest)
        try:
            with httpx.Client(
                base_url=f"{to.scheme}://{to.host}",
                timeout=_TIMEOUT,
                headers=_PLAIN,
                follow_redirects=True,
                max_redirects=_REDIRECTS_MAX,
            ) as client:
                headers = self._admission(client, f"/v2/{to.name}/manifests/{to.tag}")
                blob = self._blob_of(client, f"/v2/{to.name}/manifests/{to.tag}", headers, digest)
                with client.stream("GET", f"/v2/{to.name}/blobs/{blob}", headers=headers) as answer:
                    self._check(answer, digest)
                    yield answer.iter_raw(_CHUNK)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise Unavailable(f"the registry {to.host} doesn't answer: {exc}", retry_after_s=1.0) from exc

    def _admission(self, client: httpx.Client, path: str) -> dict[str, str]:
        """The header that opens `path`: what a first look says that it needs."""
        answer = client.head(path, headers={"accept": MANIFEST})
        if answer.status_code != 401:
            return {}
        challenge = Challenge.parse(answer.headers.get("www-authenticate", ""))
        if challenge.kind == "basic" and self._basic:
            return {"authorization": f"Basic {self._basic}"}
        if challenge.kind != "bearer":
            return {}
        known = {"authorization": f"Basic {self._basic}"} if self._basic else {}
        try:
            url = challenge.token_url(f"repository:{self._shelf.name}:pull")
        except BuildFailed as exc:
            raise Unavailable(exc.message) from exc
        return {"authorization": f"Bearer {token(_json(client.get(url, headers=known).content))}"}

    def _blob_of(self, client: httpx.Client, path: str, headers: dict[str, str], digest: str) -> str:
        with client.stream("GET", path, headers=headers | {"accept": MANIFEST}) as answer:
            self._check(answer, digest)
            content = b""
            for piece in answer.iter_bytes(_CHUNK):
                content += piece
                if len(content) > MANIFEST_MAX_BYTES:
                    raise Unavailable(f"the registry {self._shelf.host} answers more than a manifest has")
        try:
            blob = str(_json(content)["layers"][0]["digest"])
        except (LookupError, TypeError):
            blob = ""
        if not blob.startswith("sha256:") or not blob[7:].isalnum():
            raise Unavailable(f"{self.id} has no image of one layer as {digest[:19]}")
        return blob

    def _check(self, answer: httpx.Response, digest: str) -> None:
        code = answer.status_code
        if code == 200:
            return
        if code in (401, 403):
            raise Unavailable(
                f"{self.id} wants other credentials ({code}): set {AUTH} to user:password, or `docker login`"
            )
        if code == 404:
            raise Unavailable(f"{self.id} has no layer {digest}: deploy the function again, which pushes it")
        again = 1.0 if code >= 500 or code in _TEMPORARY else None
        raise Unavailable(f"{self.id} answers {code} {answer.reason_phrase}", retry_after_s=again)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
