"""/v1/sources/{digest}: a packed folder comes in once, and is known by its digest from then on."""

from __future__ import annotations

import hashlib
import re

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway.admission import Admission, check_size
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.store import Store
from jiffy.contract import limits
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, NotFound, Unavailable

UPLOADS_MAX = 3  # at a time: each holds up to SOURCE_MAX_BYTES, three times over while it goes to Redis
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Sources:
    def __init__(self, store: Store, admission: Admission) -> None:
        self._store = store
        self._admission = admission
        self._uploads = 0

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/sources/{digest}"
        return (
            Endpoint(
                "HEAD", path, self.look, "Is this archive here?", answer="", errors=("400", "404"), role=Role.DEPLOY
            ),
            Endpoint(
                *("PUT", path, self.put, "Upload a source archive (tar.gz); the path holds its SHA-256."),
                body="application/gzip",
                status="201",
                errors=("400", "413", "503"),
            ),
        )

    async def look(self, request: Request) -> Response:
        digest = _digest(request)
        if not await self._store.has_source(caller.tenant(request), digest):
            raise NotFound(f"there is no source {digest}")
        return Response()

    async def put(self, request: Request) -> Response:
        digest = _digest(request)
        if self._uploads >= UPLOADS_MAX:
            raise Unavailable(f"{UPLOADS_MAX} sources are being uploaded already", retry_after_s=2.0)
        self._uploads += 1
        try:
            await self._take(request, digest)
        finally:
            self._uploads -= 1
        return JSONResponse({"source": digest}, 201)

    async def _take(self, request: Request, digest: str) -> None:
        length = request.headers.get("content-length", "0")
        check_size(int(length) if length.isdigit() else 0, limits.SOURCE_MAX_BYTES, "the source archive")
        archive, sha = bytearray(), hashlib.sha256()
        held = 0
        try:
            async for chunk in request.stream():
                check_size(len(archive) + len(chunk), limits.SOURCE_MAX_BYTES, "the source archive")
                self._admission.hold(len(chunk))
                held += len(chunk)
                archive += chunk
                sha.update(chunk)
            found = f"sha256:{sha.hexdigest()}"
            if found != digest:
                raise InvalidRequest(f"the body's digest is {found}, not {digest}")
            if not await self._store.put_source(caller.tenant(request), digest, bytes(archive)):
                room = f"{limits.SOURCES_MAX} sources of {limits.SOURCES_MAX_BYTES // limits.MIB} MiB in all"
                text = (
                    f"there is no room for more than {room}; each is let go {limits.BUILD_KEEP_S} s after its last use"
                )
                raise Unavailable(text, retry_after_s=60.0)
        except ClientDisconnect as exc:
            raise InvalidRequest("the upload broke off") from exc
        finally:
            self._admission.held -= held


def _digest(request: Request) -> str:
    digits = request.path_params["digest"]
    if not _DIGEST.fullmatch(digits):
        raise InvalidRequest(f"{digits[:80]!r} is no SHA-256: 64 hexadecimal digits, lower case")
    return f"sha256:{digits}"
