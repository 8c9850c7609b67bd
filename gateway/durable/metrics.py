"""What /metrics says of asynchronous work. It is counted in the steps that do it, so every gateway says the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.durable.store import Work

EVENTS = (  # counters of keys.tally
    *("accepted", "retried", "done", "dead", "cancelled", "replayed", "purged", "dropped"),
    *("destined", "delivered", "undelivered", "redelivered"),
)


def lines(work: Mapping[str, Work]) -> Iterator[str]:
    """`work`: by tenant."""
    yield "# HELP jiffy_async_events_total What became of asynchronous calls, and of what destinations are told."
    yield "# TYPE jiffy_async_events_total counter"
    for tenant, of in work.items():
        for name in EVENTS:
            yield f'jiffy_async_events_total{{tenant="{tenant}",event="{name}"}} {of.counters.get(name, 0)}'
    yield "# HELP jiffy_async_backlog Asynchronous calls that were accepted and have not ended."
    yield "# TYPE jiffy_async_backlog gauge"
    yield from (f'jiffy_async_backlog{{tenant="{tenant}"}} {of.backlog}' for tenant, of in work.items())
    yield "# HELP jiffy_dead_letters Calls and deliveries that failed for good and wait to be looked at."
    yield "# TYPE jiffy_dead_letters gauge"
    yield from (f'jiffy_dead_letters{{tenant="{tenant}"}} {of.dead_letters}' for tenant, of in work.items())
