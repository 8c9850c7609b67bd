"""A lock: which packages, of which version, with which hashes, a function's requirements came to.

It lies in the labels of the revision's image, so it goes where the image goes. `jiffy deploy --locked` builds from the
one of the revision in service. Resolving is deps.py's business.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from jiffy.contract.errors import BuildFailed

LABEL = "jiffy.lock"
_HEAD = "# requirements: "


@dataclass(frozen=True, slots=True)
class Lock:
    """What `asked` came to."""

    asked: str  # a digest of the requirements
    lines: tuple[str, ...]  # "idna==3.10 --hash=sha256:… --hash=sha256:…"

    def __str__(self) -> str:
        return "\n".join((f"{_HEAD}{self.asked}", *self.lines)) + "\n"

    def check(self, requirements: tuple[str, ...]) -> None:
        """Raises BuildFailed when it is not of these requirements."""
        if digest(requirements) != self.asked:
            raise BuildFailed(
                "the requirements are not those of the revision in service, so its lock does not fit: deploy without "
                "--locked"
            )


def parse(text: str) -> Lock:
    head, *lines = text.splitlines()
    return Lock(head.removeprefix(_HEAD), tuple(line for line in lines if line))


def digest(requirements: tuple[str, ...]) -> str:
    text = "\n".join(sorted(" ".join(line.split()) for line in requirements))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
