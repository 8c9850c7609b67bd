"""The builder's process: ``python -m builder --redis URL --data DIR [--name ID]``.

``python -m builder make``, ``export``, ``push`` and ``inspect`` work without Redis and without a platform: offline.py;
``prune`` removes what is of no use: retention.py.
Everything is wired here by hand; the story is in build.py.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from builder.build import Builder
from builder.identity import alone, builder_id
from builder.processes import Processes
from builder.runtimes.nodejs import node
from builder.runtimes.python import interpreter
from builder.store import Store
from builder.worker import Worker
from jiffy.contract import address, keys
from jiffy.contract.errors import JiffyError
from jiffy.contract.registry import Shelf

COMMANDS = {name: ("builder.offline", name) for name in ("make", "export", "inspect", "push")}
COMMANDS["prune"] = ("builder.retention", "main")


@dataclass(frozen=True, slots=True)
class Config:
    """One builder process."""

    redis: str
    data: Path
    shelf: Shelf | None  # a registry that layers are pushed to
    name: str | None  # its own among all builders of one queue; None: kept in the data folder (identity.py)


def main(argv: list[str]) -> int:
    try:
        if argv and argv[0] in COMMANDS:
            module, function = COMMANDS[argv[0]]
            return int(getattr(importlib.import_module(module), function)(argv[1:]))  # not at every start
        config = _config(argv)
        keys.share(address.parse(config.redis).name)
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s builder %(message)s")
        name = builder_id(config.data, config.name)
        with alone(config.data, name):
            asyncio.run(_run(config, name))
    except JiffyError as exc:
        print(f"builder: {exc.message}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"builder: {exc}", file=sys.stderr)
        return 1
    return 0


def _config(argv: list[str]) -> Config:
    parser = argparse.ArgumentParser(prog="builder", description="Makes images and layers of functions.")
    redis = os.environ.get("JIFFY_REDIS")  # a command line can be read by everyone on the host
    parser.add_argument(
        *("--redis",), default=redis, required=not redis, metavar="URL", help="the queue; default: JIFFY_REDIS"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument("--name", metavar="ID", help="this builder's; default: kept in DIR/builder-id")
    parser.add_argument("--registry", metavar="HOST/PREFIX", help="push layers there, for hosts with other folders")
    known = parser.parse_args(argv)
    shelf = Shelf.parse(known.registry) if known.registry else None
    return Config(known.redis, known.data.absolute(), shelf, known.name)


async def _run(config: Config, name: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    os.umask(0o022)  # sandboxes' users read the layers
    interpreters = await asyncio.to_thread(interpreter.find_all)
    processes = Processes()
    nodes = await asyncio.to_thread(node.find_all, os.environ)
    builder = Builder(config.data, interpreters, os.environ, processes, config.shelf, nodes)
    await Worker(Store(config.redis, name), builder, processes, interpreters).run(stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
