"""Who is calling? API keys, found by their hash, and the keys file, read again when it changes.

A look-up costs one SHA-256 of what was sent and one look into a dictionary by it, so its time tells nothing about the
keys there are. What keys allow: jiffy.contract.access. Where they come in: admission.read_head.
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from jiffy.contract.access import ALLOWS, DEFAULT_TENANT, ApiKey, Role, digest, parse_keys
from jiffy.contract.errors import Forbidden, SpecError

LOOK_S = 0.5  # a key that was taken back opens nothing a second later
FILE_MAX_BYTES = 16 * 1024 * 1024  # 100,000 keys

log = logging.getLogger("jiffy.gateway")


class Caller(NamedTuple):
    """Whom a request acts for, and what it may do there."""

    tenant: str
    rights: frozenset[Role]
    key: str = ""  # name of the key; "": the platform's own, or none

    @property
    def admin(self) -> bool:
        return Role.ADMIN in self.rights

    def need(self, role: Role) -> None:
        """Raises Forbidden."""
        if role not in self.rights:
            has = f"the key {self.key!r}" if self.key else "this key"
            may = ", ".join(each for each, rights in ALLOWS.items() if role in rights)
            raise Forbidden(f"{has} may not do this: it takes a key with the role {may.replace(', ', ' or ')}")


OWNER = Caller(DEFAULT_TENANT, ALLOWS[Role.ADMIN])  # who has JIFFY_API_KEY, or is on loopback where no keys are


def nobody(tenant: str) -> Caller:
    """Who has no key: may see what is open, at this tenant's."""
    return Caller(tenant, frozenset())


class Keyring:
    """All keys of a platform: `api_key` (JIFFY_API_KEY), and those of `path`."""

    def __init__(self, api_key: str | None, path: Path | None) -> None:
        """Raises SpecError when the file can't be read or has mistakes."""
        self._own = {bytes.fromhex(digest(api_key)): OWNER} if api_key else {}
        self._path = path
        self._callers: dict[bytes, Caller] = dict(self._own)
        self._seen: tuple[int, ...] = ()
        self._told = ""
        if path is not None:
            self._seen = _stamp(path)
            self._take(read(path))

    def find(self, key: bytes) -> Caller | None:
        """Whose key this is."""
        return self._callers.get(sha256(key).digest())

    def look(self) -> None:
        """Read the file if it is another one by now. One with mistakes changes nothing; the log says so once."""
        assert self._path is not None
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._take(read(self._path))
            self._seen, self._told = stamp, ""
        except SpecError as exc:
            if exc.message != self._told:
                log.error("the keys stay as they were: %s", exc.message)
                self._told = exc.message

    async def watch(self) -> None:
        """Keep up with the file, for as long as the gateway runs."""
        while self._path is not None:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)
        await asyncio.Event().wait()

    def _take(self, keys: tuple[ApiKey, ...]) -> None:
        callers = {bytes.fromhex(key.key_sha256): Caller(key.tenant, ALLOWS[key.role], key.name) for key in keys}
        self._callers = callers | self._own


def read(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SpecError(f"can't read {path}: {exc}") from exc
    return parse_keys(text, str(path))


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs when a file was written or replaced. Raises SpecError."""
    try:
        found = path.stat()
    except OSError as exc:
        raise SpecError(f"can't read {path}: {exc.strerror or exc}") from exc
    if found.st_size > FILE_MAX_BYTES:
        raise SpecError(f"{path} has more than {FILE_MAX_BYTES} bytes")
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
