"""How a call ended, and an answer that comes piece by piece. Who asks for them: client.py."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .contract.errors import PlatformError


@dataclass(frozen=True, slots=True)
class Invocation:
    """How a call ended. `result` is the function's, or its error: errorType, errorMessage[, stackTrace]."""

    id: str
    function: str
    outcome: str  # jiffy.contract.messages.Outcome
    result: Any
    duration_ms: float
    billed_ms: int
    cold: bool
    init_ms: float
    revision: int
    replayed: bool = False  # it ran before, under the same idempotency key: this is that call's answer

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @classmethod
    def told(cls, function: str, headers: Mapping[str, str], result: Any) -> Invocation:
        """As the headers of an answer tell it."""
        return cls(
            id=headers.get("jiffy-invocation-id", ""),
            function=function,
            outcome=headers.get("jiffy-outcome", "ok"),
            result=result,
            duration_ms=float(headers.get("jiffy-duration-ms", 0)),
            billed_ms=int(headers.get("jiffy-billed-ms", 0)),
            cold=headers.get("jiffy-cold") == "true",
            init_ms=float(headers.get("jiffy-init-ms", 0)),
            revision=int(headers.get("jiffy-revision", 0)),
            replayed=headers.get("idempotent-replayed") == "true",
        )


class Streamed:
    """An answer as it comes: iterate once, over bytes. Of a function that does not stream, only `ended` is there.

    `status` and `headers` (pairs) are there with the first piece, `ended` after the last; its `result` is None when all
    went well. Leaving before the end hangs up, which ends the function where it yields next.
    """

    def __init__(self, function: str, headers: Mapping[str, str], lines: Iterable[str]) -> None:
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.ended: Invocation | None = None
        self._function = function
        self._told = headers
        self._lines = lines

    @classmethod
    def whole(cls, invocation: Invocation) -> Streamed:
        answer = cls(invocation.function, {}, ())
        answer.ended = invocation
        return answer

    def __iter__(self) -> Iterator[bytes]:
        """Raises PlatformError when it breaks off."""
        for line in self._lines:
            document = json.loads(line)
            if "head" in document:
                self.status = document["head"]["status"]
                self.headers = [(name, value) for name, value in document["head"]["headers"]]
            elif "text" in document:
                yield document["text"].encode()
            elif "base64" in document:
                yield base64.b64decode(document["base64"])
            elif "error" in document:
                raise PlatformError(document["error"]["message"])
            elif "end" in document:
                self.ended = self._end(document["end"])
        if self.ended is None:
            raise PlatformError("the answer broke off")

    def _end(self, end: dict[str, Any]) -> Invocation:
        return Invocation(
            id=self._told.get("jiffy-invocation-id", ""),
            function=self._function,
            outcome=end["outcome"],
            result=end.get("error"),
            duration_ms=end["duration_ms"],
            billed_ms=end["billed_ms"],
            cold=end["cold"],
            init_ms=end["init_ms"],
            revision=int(self._told.get("jiffy-revision", 0)),
        )
