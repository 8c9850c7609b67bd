"""A bucket of S3, or of a server that speaks as S3 does, as a place of files: its objects below a prefix, listed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from gateway.triggers.sources.aws import client, translated
from gateway.triggers.sources.base import SourceError
from gateway.triggers.sources.files import FILES_MAX, File
from jiffy.contract.queues import Address


class Bucket:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        with translated():
            self._client = await self._stack.enter_async_context(client("s3", self._address))

    async def close(self) -> None:
        await self._stack.aclose()

    async def look(self) -> dict[str, File]:
        found: dict[str, File] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._address.space, Prefix=self._address.name
        )
        with translated():
            async for page in pages:
                for one in page.get("Contents", ()):
                    at_ms = int(one["LastModified"].timestamp() * 1000)
                    found[one["Key"]] = File(one["ETag"].strip('"'), one["Size"], at_ms)
                if len(found) > FILES_MAX:
                    raise SourceError(f"there are more than {FILES_MAX} objects; a longer prefix has fewer")
        return found

    async def content(self, key: str, file: File) -> bytes | None:
        with translated():
            try:
                answer = await self._client.get_object(Bucket=self._address.space, Key=key, IfMatch=file.version)
            except self._client.exceptions.ClientError as exc:
                if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (404, 412):
                    return None  # it went, or is another by now
                raise
            async with answer["Body"] as body:
                return bytes(await body.read(file.size))
