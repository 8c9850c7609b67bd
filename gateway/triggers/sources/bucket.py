"""A bucket of S3, or of a server that speaks as S3 does, as a place of files: its objects below a prefix, listed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway.triggers.sources.aws import client, refusal, translated
from gateway.triggers.sources.files import File, Listing, Unreadable
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
        found = Listing(self._address.space)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._address.space, Prefix=self._address.name
        )
        with translated():
            async for page in pages:
                for one in page.get("Contents", ()):
                    at_ms = int(one["LastModified"].timestamp() * 1000)
                    found.add(one["Key"], File(one["ETag"].strip('"'), one["Size"], at_ms))
        return found.files

    async def content(self, key: str, file: File) -> bytes | None:
        with translated():
            try:
                answer = await self._client.get_object(Bucket=self._address.space, Key=key, IfMatch=file.version)
            except ClientError as exc:
                status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if status in (404, 412):
                    return None  # it went, or is another by now
                if 400 <= status < 500 and status not in (408, 429):  # archived, forbidden, its key disabled …
                    raise Unreadable(refusal(exc)) from exc
                raise
        try:
            async with answer["Body"] as body:
                return await _whole(body, file.size)
        except (BotoCoreError, OSError, TimeoutError) as exc:
            raise Unreadable(f"{key}: {exc}"[:300]) from exc


async def _whole(body: Any, size: int) -> bytes:
    """A read brings what is there by now. Raises OSError: it is more or less than the listing said."""
    found = bytearray()
    while len(found) <= size and (part := await body.read(size + 1 - len(found))):
        found += part
    if len(found) != size:
        raise OSError(f"its content has not the {size} bytes that it is listed with")
    return bytes(found)
