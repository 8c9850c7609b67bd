"""Dependency layers, found by what was asked for: functions that ask for the same share one, and resolve once.

A note in the data folder says which layer a key led to, and what the requirements came to (lock.py). What a key is
made of, and how a layer comes about, is each language's own business.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from builder.layers import LayerStore, StoredLayer
from jiffy.contract import layout


class Resolved:
    """See the module. Safe to use from any thread."""

    def __init__(self, store: LayerStore) -> None:
        self._store = store
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def layer(
        self, key: str, folder: Path, prefix: str, make: Callable[[Path], tuple[str, ...]]
    ) -> tuple[StoredLayer, tuple[str, ...], bool]:
        """The layer of this key, what it came to, and whether it was there already.

        `make` fills the new folder that it is given, which is in the staging `folder`, and returns what it came to; the
        layer lies at `prefix` of the image.
        """
        note = self._store.data / layout.CACHE / "deps" / key
        with self._locks[key]:
            known = json.loads(note.read_text()) if note.is_file() else {}
            stored = self._store.get(known["digest"]) if known else None
            if stored is not None:
                return stored, tuple(known["lock"]), True
            tree = folder / "deps"
            lines = make(tree)
            stored = self._store.put("deps", tree, prefix)
            note.parent.mkdir(parents=True, exist_ok=True)
            draft = folder / "note"
            draft.write_text(json.dumps({"digest": stored.layer.digest, "lock": lines}))
            draft.replace(note)
            return stored, lines, False
