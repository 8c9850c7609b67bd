"""Isolation drivers: docker.py and bwrap.py, behind the protocol in base.py. This file chooses one."""

from __future__ import annotations

import logging

from jiffy.contract.errors import Unavailable

from .base import Driver, DriverConfig
from .bwrap import Bwrap
from .docker import Docker

__all__ = ["Driver", "DriverConfig", "choose"]

log = logging.getLogger(__name__)


async def choose(kind: str, config: DriverConfig) -> Driver:
    """An opened driver. `kind` is "docker", "bwrap", or "auto": docker where it answers. Raises Unavailable."""
    driver: Driver
    if kind == "bwrap":
        driver = Bwrap(config)
    elif kind in ("auto", "docker"):
        driver = Docker(config)
    else:
        raise ValueError(f"no driver is called {kind!r}")
    try:
        await driver.open()
    except Unavailable as exc:
        if kind != "auto":
            raise
        log.info("%s; using bubblewrap", exc.message)
        driver = Bwrap(config)
        await driver.open()
    return driver
