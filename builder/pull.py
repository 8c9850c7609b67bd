"""Pulls an image from a registry, by the OCI distribution specification: the manifest, then its parts.

Everything comes in pieces and bounded, in bytes and in time, and is held against the digest that names it. What opens
the registry goes to its own origin alone: it may send us elsewhere for a blob. Errors are one line: BuildFailed for
what the function's author can mend, Unavailable where the registry doesn't answer. How images are pushed: registry.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from builder.deadline import Deadline
from builder.runtimes.image import archive
from builder.runtimes.image.archive import Fetched
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed, Unavailable
from jiffy.contract.registry import Challenge, Reference, credentials, public, safe, token

DOCKER_HUB, _HUB_HOST, _HUB_LOGIN = "docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"
_CHUNK = 1024 * 1024
_ERROR_MAX_BYTES = 16 * 1024
_REDIRECTS_MAX = 5
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def pull(text: str, into: Path, docker_config: str, *, trusted: bool) -> Fetched:
    """The image that `text` names, HOST/NAME[:TAG][@DIGEST], with its layers as files in the new folder `into`.

    Who is not `trusted` gets none of this host's credentials, and neither the name nor what the registry answers leads
    us to this host itself or to its link.
    """
    name, _, digest = text.partition("@")
    of = Reference.parse(name)
    login = _HUB_LOGIN if of.host == DOCKER_HUB else of.host
    basic = credentials(docker_config, login) if trusted else ""
    into.mkdir()
    late = f"image: {of.host} took longer than {limits.BUILD_MAX_S:g} s"
    try:
        with (
            Deadline(limits.BUILD_MAX_S, late) as deadline,
            httpx.Client(timeout=_TIMEOUT, event_hooks={"request": [_traced(deadline)]}) as client,
        ):
            return Puller(client, of, basic, trusted=trusted).image(digest, into)
    except httpx.InvalidURL as exc:
        raise BuildFailed(f"image: {of.host} names an address that is none: {exc}") from exc
    except httpx.HTTPError as exc:
        raise Unavailable(f"the registry {of.host} doesn't answer: {exc}") from exc


def _traced(deadline: Deadline) -> Callable[[httpx.Request], None]:
    def trace(request: httpx.Request) -> None:
        request.extensions["trace"] = deadline.trace

    return trace


class Puller:
    """One pull. Raises BuildFailed when the registry is one that who is not `trusted` may not reach."""

    def __init__(self, client: httpx.Client, of: Reference, basic: str, *, trusted: bool) -> None:
        self._client, self._of, self._basic, self._trusted = client, of, basic, trusted
        self._base = httpx.URL(f"{of.scheme}://{_HUB_HOST if of.host == DOCKER_HUB else of.host}")
        self._authorization = ""
        if not self._may(self._base):
            raise BuildFailed(f"image: {of.host} is this host's own; name a registry that all can reach")

    def image(self, digest: str, into: Path) -> Fetched:
        manifest = self._manifest(digest)
        if "manifests" in manifest:
            manifest = self._manifest(archive.described(archive.chosen(manifest)))
        config, layers = archive.parts(manifest)
        paths = self._layers([archive.described(layer) for layer in layers], into)
        found = self._blob(archive.described(config), into / "config", archive.DOCUMENT_MAX_BYTES)
        return Fetched(archive.document(found.read_bytes()), paths)

    def _layers(self, digests: list[str], into: Path) -> tuple[Path, ...]:
        """A file for each, those of one digest fetched once."""
        fetched, left = dict[str, Path](), limits.IMAGE_MAX_BYTES  # for all of them
        paths = tuple(into / f"layer-{n}" for n in range(len(digests)))
        for digest, path in zip(digests, paths, strict=True):
            if digest in fetched:
                path.hardlink_to(fetched[digest])
            else:
                fetched[digest] = self._blob(digest, path, left)
                left -= path.stat().st_size
        return paths

    def _manifest(self, digest: str) -> dict[str, Any]:
        with self._got(f"/v2/{self._of.name}/manifests/{digest or self._of.tag}") as answer:
            data = b"".join(self._bounded(answer.iter_bytes(_CHUNK), archive.DOCUMENT_MAX_BYTES))
        if digest:
            archive.check(data, digest)
        return archive.document(data)

    def _blob(self, digest: str, path: Path, most: int) -> Path:
        hashed = hashlib.sha256()
        with self._got(f"/v2/{self._of.name}/blobs/{digest}") as answer, path.open("xb") as file:
            for piece in self._bounded(answer.iter_raw(_CHUNK), most):
                hashed.update(piece)
                file.write(piece)
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise BuildFailed(f"image: what {self._of.host} has as {digest} is something else")
        return path

    def _bounded(self, pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > most:
                bounds = (
                    f"{limits.IMAGE_MAX_BYTES // limits.MIB} MiB of layers, {archive.DOCUMENT_MAX_BYTES} bytes else"
                )
                raise BuildFailed(f"image: {self._of.host} sends more than an image may have: {bounds}")
            yield piece

    @contextmanager
    def _got(self, path: str) -> Iterator[httpx.Response]:
        """A whole answer on its way, wherever the registry sends us for it."""
        where = self._base.join(path)
        for _ in range(_REDIRECTS_MAX):
            headers = {"accept": ", ".join(archive.ACCEPTED)}
            ours = (where.scheme, where.netloc) == (self._base.scheme, self._base.netloc)
            if ours and self._authorization:
                headers["authorization"] = self._authorization
            with self._client.stream("GET", where, headers=headers) as answer:
                if answer.status_code == 200:
                    yield answer
                    return
                if answer.status_code == 401 and ours and not self._authorization:
                    self._open(answer.headers)
                    if self._authorization:
                        continue
                if not answer.is_redirect:
                    raise self._refusal(answer)
                where = where.join(answer.headers.get("location", ""))
                if not self._may(where):
                    raise BuildFailed(f"image: {self._of.host} sends us for its parts to a place that is not safe")
        raise BuildFailed(f"image: {self._of.host} sends us from place to place")

    def _open(self, headers: Mapping[str, str]) -> None:
        """Answer what it asks for: Basic with the credentials, Bearer with a token that they fetch."""
        challenge = Challenge.parse(headers.get("www-authenticate", ""))
        if challenge.kind == "basic" and self._basic:
            self._authorization = f"Basic {self._basic}"
        elif challenge.kind == "bearer":
            known = {"authorization": f"Basic {self._basic}"} if self._basic else {}
            url = httpx.URL(challenge.token_url(f"repository:{self._of.name}:pull"))
            if not self._may(url):
                raise BuildFailed(f"image: {self._of.host} sends us for a token to a place that is not safe")
            with self._client.stream("GET", url, headers=known) as answer:
                said = b"".join(self._bounded(answer.iter_bytes(_CHUNK), archive.DOCUMENT_MAX_BYTES))
            found = token(archive.document(said)) if answer.status_code == 200 else ""
            self._authorization = f"Bearer {found}" if found else ""

    def _may(self, where: httpx.URL) -> bool:
        """May we go where the function's author, or the registry, sends us?"""
        if not self._trusted:
            return public(where.scheme, where.raw_host.decode())
        return safe(str(where)) and (where.scheme == "https" or self._of.scheme == "http")

    def _refusal(self, answer: httpx.Response) -> BuildFailed:
        said = next(answer.iter_bytes(_ERROR_MAX_BYTES), b"")
        try:
            told = str(json.loads(said)["errors"][0]["message"])[:300]
        except (ValueError, LookupError, TypeError, RecursionError):
            told = answer.reason_phrase
        name = f"{self._of.name}:{self._of.tag}"
        if answer.status_code in (401, 403):
            hint = f"; `docker login {self._of.host}` where the builder runs keeps the credentials it asks for"
            return BuildFailed(f"image: {self._of.host} refuses {name}: {told}{hint}")
        return BuildFailed(f"image: {self._of.host} has no {name}: {answer.status_code} {told}")
