"""What calls cost, as Python calls: price books, statements of months, comparisons, estimates. See docs/billing.md.

    with Client() as client:
        Costs(client).statement("2026-11")["total"]

The calls themselves, one by one or added up, are Client.usage.
"""

from __future__ import annotations

from typing import Any

from .client import Client, Params
from .contract import spec


class Costs:
    """Everything about money that a platform answers. Exact amounts are decimal strings."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def price_books(self) -> dict[str, Any]:
        """All price books, and which is in force."""
        return self._client.get_json("/v1/prices")

    def price_book(self, version: int) -> dict[str, Any]:
        return self._client.get_json(f"/v1/prices/{version}")

    def publish(self, toml: bytes) -> dict[str, Any]:
        """Adds the price books of a TOML file; returns what `price_books` does."""
        return self._client.post_json("/v1/prices", toml, "application/toml")

    def statements(self) -> list[dict[str, Any]]:
        """Number, month and total of every closed month, the newest first."""
        return list(self._client.get_json("/v1/statements")["statements"])

    def statement(self, month: str) -> dict[str, Any]:
        """The statement of a month such as "2026-11": as it was closed, or as it stands now."""
        return self._client.get_json(f"/v1/statements/{_segment(month)}")

    def statement_page(self, month: str) -> str:
        """The same as one HTML page that needs nothing else."""
        return self._client.text(f"/v1/statements/{_segment(month)}", {"format": "html"})

    def close(self, month: str) -> dict[str, Any]:
        """Freezes a month that is over; returns its statement."""
        return self._client.post_json(f"/v1/statements/{_segment(month)}/close")

    def comparison(self, book: str, **span: str | None) -> dict[str, Any]:
        """The same calls under another price book, such as "aws-lambda"."""
        return self._client.get_json("/v1/costs/comparison", {"book": book, **span})

    def advice(self, **span: str | None) -> list[dict[str, Any]]:
        """Functions that declare more memory than they use, and what less of it would save."""
        return list(self._client.get_json("/v1/costs/advice", span)["advice"])

    def anomalies(self) -> list[dict[str, Any]]:
        """Functions whose daily cost left its usual range, today or yesterday."""
        return list(self._client.get_json("/v1/costs/anomalies")["anomalies"])

    def estimate(self, load: Params) -> dict[str, Any]:
        """What a month of calls will cost: calls, duration_ms, memory_mb, …"""
        return self._client.get_json("/v1/costs/estimate", load)

    def estimate_function(self, name: str) -> dict[str, Any] | None:
        """What a million calls of a function will cost, from its last ones; None when it had none lately."""
        found = self.function(name)["estimate"]
        return dict(found) if found else None

    def function(self, name: str) -> dict[str, Any]:
        """`estimate`, as above, and `kept_ready`: what its min_instances cost a day on one host; None: it has none."""
        return {"kept_ready": None} | self._client.get_json(f"/v1/costs/estimate/{spec.check_name(name)}")


def _segment(month: str) -> str:
    """As a part of a path: what is no month stays one part, and the platform says what is wrong with it."""
    return "".join(c if c.isalnum() or c == "-" else "_" for c in month) or "_"
