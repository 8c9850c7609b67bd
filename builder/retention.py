"""What may go from a data folder and from the queue: old revisions, and the layers and images that nobody needs.

The rule, which docs/images.md states: of each function the live revision stays, and the newest few, and every one that
an alias names, or a queued call or a running sandbox uses. A layer or an image stays while a revision, a stem or a
queued call needs it, and limits.UNUSED_KEEP_S longer, or after a build touched it. So a pass is safe beside builds and
calls that nobody has told us of yet. What is where is read by store.py; files are sweeping.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import sweeping
from builder.layers import LayerStore
from builder.store import Store
from builder.sweeping import Swept
from jiffy.contract import address, keys, limits
from jiffy.contract.messages import Revision


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pass removed, or would."""

    revisions: tuple[str, ...]  # "tenant/function:number"
    swept: Swept


async def prune(
    store: Store,
    layers: LayerStore,
    now: Callable[[], float],
    *,
    keep: int = limits.REVISIONS_KEPT,
    grace_s: float = limits.UNUSED_KEEP_S,
    dry: bool = False,
) -> Pruned:
    """One pass. `now` is the host's clock, which the files' times are of. Raises Unavailable.

    `dry`: change nothing, say what would go.
    """
    beats = await store.beats()
    needed = {digest for beat in beats for digest in beat.bases}
    needed |= await store.bases({place for beat in beats for place in (beat.store, beat.registry)} | {layers.id})
    running = {(row.tenant, row.function, row.revision) for beat in beats for row in beat.functions}
    gone: list[str] = []
    images: set[str] = set()
    for tenant, names in (await store.functions()).items():
        queued = await store.queued(tenant)
        used, known = running | queued.keys(), set()
        for name in names:
            live, revisions = await store.revisions(tenant, name)
            called = {number for t, f, number in used if (t, f) == (tenant, name)}
            old = outdated(live, revisions, called | await store.named(tenant, name), keep)
            if old and not dry:
                old = await store.trim(tenant, name, old)
            gone += [_ref(revisions[number]) for number in old]
            kept = [revision for number, revision in revisions.items() if number not in old]
            needed |= {layer.digest for revision in kept for layer in revision.layers}
            images |= {_ref(revision) for revision in kept}
            known |= {(tenant, name, revision.number) for revision in kept}
        for call in (queued[key] for key in queued.keys() - known):  # of functions that were removed
            needed |= {layer.digest for layer in await store.layers_of(call)}
    if not images:
        return Pruned((), Swept(0, 0, 0, 0, 0, 0))  # nothing is deployed, or this is another platform's queue
    swept = await asyncio.to_thread(
        sweeping.sweep, layers, frozenset(needed), frozenset(images), now(), grace_s, dry=dry
    )
    return Pruned(tuple(gone), swept)


def outdated(live: int, numbers: Iterable[int], used: set[int], keep: int) -> tuple[int, ...]:
    """Those of a function's revisions that nothing asks to keep, oldest first."""
    ordered = sorted(numbers)
    return tuple(n for n in ordered[: max(0, len(ordered) - keep)] if n != live and n not in used)


def _ref(revision: Revision) -> str:
    return f"{revision.tenant}/{revision.function}:{revision.number}"


def main(argv: list[str]) -> int:
    """``python -m builder prune``: one pass, told as JSON."""
    parser = argparse.ArgumentParser(prog="builder prune", description="Removes what no function needs any more.")
    redis = os.environ.get("JIFFY_REDIS")  # a command line can be read by everyone on the host
    parser.add_argument(
        *("--redis",), default=redis, required=not redis, metavar="URL", help="the queue; default: JIFFY_REDIS"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument(
        "--keep",
        type=int,
        default=limits.REVISIONS_KEPT,
        metavar="N",
        help="newest revisions of each function",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    known = parser.parse_args(argv)
    keys.share(address.parse(known.redis).name)
    pruned = asyncio.run(_once(known))
    print(json.dumps({"revisions": pruned.revisions, **asdict(pruned.swept), "dry_run": known.dry_run}))
    return 0


async def _once(known: argparse.Namespace) -> Pruned:
    store = Store(known.redis, "prune")
    try:
        return await prune(store, LayerStore(known.data.absolute()), time.time, keep=known.keep, dry=known.dry_run)
    finally:
        await store.close(leave=False)
