"""A stranger's tar, read member by member, with bounds on what Python's tarfile keeps of it in memory.

Left to itself it reads headers of any size, follows chains of them, and remembers every member with all that its
headers say. Which members are let in, and where they go, is source.py's and runtimes/image's to say.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

_HEADER_MAX_BYTES = 64 * 1024  # extended headers hold names, times, attributes
_IN_A_ROW_MAX = 10  # extended headers of one member; writers make up to four
_GLOBAL_MAX = 100  # settings for all that follows; git writes one
_EXTENDED = frozenset(
    {
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    }
)


class _Header(tarfile.TarInfo):
    """A header whose extensions are bounded before tarfile reads them."""

    def _proc_member(self, tar: Tar) -> tarfile.TarInfo:
        if self.type in _EXTENDED:
            tar.in_a_row += 1
            if self.size > _HEADER_MAX_BYTES or tar.in_a_row > _IN_A_ROW_MAX:
                raise tarfile.ReadError(f"an extended header of {self.size} bytes, or too many of them")
        if self.size < 0:
            raise tarfile.ReadError("a member of less than nothing")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]

    def _proc_sparse(self, _: tarfile.TarFile) -> tarfile.TarInfo:
        raise tarfile.ReadError(f"{self.name[:80]!r} is a sparse file")  # their maps have no bound

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError(f"{self.name[:80]!r} is a sparse file")


class Tar(tarfile.TarFile):
    """Opened as any TarFile. What is too much raises tarfile.ReadError."""

    tarinfo = _Header
    in_a_row = 0

    def each(self) -> Iterator[tarfile.TarInfo]:
        """Its members, in order; none is remembered."""
        while (info := self.next()) is not None:
            self.in_a_row = 0
            self.members.clear()  # type: ignore[attr-defined]
            info.pax_headers = {}
            if len(self.pax_headers) > _GLOBAL_MAX:
                raise tarfile.ReadError("too many global headers")
            yield info
