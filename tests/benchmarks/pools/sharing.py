"""Fair shares: what a call takes beside another function's flood, and beside another tenant's."""

from __future__ import annotations

import asyncio
import secrets
import tempfile

import uvloop

from jiffy.contract.access import digest
from tests.benchmarks.figures import Figure
from tests.benchmarks.load import closed_loop
from tests.benchmarks.platform import platform

from .arrivals import Arrivals, arrive, arriving, call
from .instances import NAP

BUSY_S = 0.2  # a call of the flood
PER_S = 5.0  # quiet calls


def flood(sandbox: str, quick: bool) -> list[Figure]:
    """One function floods a host of 16 instances with 64 callers; another one is called five times a second."""
    calls = 10 if quick else 30
    with platform(sandbox, "--instances", "16") as running:
        table = 'handler = "nap:handler"\ntimeout_s = 20'
        running.deploy("flood", {"flood": table, "quiet": table}, {"nap.py": NAP.format(seconds=BUSY_S)})
        uvloop.run(closed_loop("127.0.0.1", running.port, [call("quiet")] * 5, 1))
        alone = arrive(running.port, [call("quiet")] * calls, PER_S)
        both = uvloop.run(_flooded(running.port, [call("flood")], [call("quiet")] * calls))
    return [
        Figure(
            f"a call of {BUSY_S * 1000:.0f} ms beside a flood of 64 callers, p50 / p99 (alone: p50 / p99)",
            f"{both.spread} ({alone.spread})",
            "p50 at most twice",
            both.runs,
        )
    ]


def tenants(sandbox: str, quick: bool) -> list[Figure]:
    """One tenant floods a host of 16 instances with all of its four functions; another one has one that is called."""
    calls = 10 if quick else 30
    keys = {name: secrets.token_urlsafe(32) for name in ("loud", "quiet")}
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        for name, key in keys.items():
            file.write(f'[keys.{name}]\ntenant = "{name}"\nrole = "deploy"\nkey_sha256 = "{digest(key)}"\n')
        file.flush()
        with platform(sandbox, "--instances", "16", "--keys", file.name) as running:
            nap = {"nap.py": NAP.format(seconds=BUSY_S)}
            table = 'handler = "nap:handler"\ntimeout_s = 20'
            running.deploy("loud", {f"nap-{n}": table for n in range(4)}, nap, keys["loud"])
            running.deploy("quiet", {"nap-0": table}, nap, keys["quiet"])
            quiet = call("nap-0", keys["quiet"])
            uvloop.run(closed_loop("127.0.0.1", running.port, [quiet] * 5, 1))
            alone = arrive(running.port, [quiet] * calls, PER_S)
            loud = [call(f"nap-{n}", keys["loud"]) for n in range(4)]
            both = uvloop.run(_flooded(running.port, loud, [quiet] * calls))
    return [
        Figure(
            "the same beside another tenant's flood, 64 callers of four functions, p50 / p99 (alone: p50 / p99)",
            f"{both.spread} ({alone.spread})",
            "p50 at most twice",
            both.runs,
        )
    ]


async def _flooded(port: int, flood: list[bytes], quiet: list[bytes]) -> Arrivals:
    """`quiet`, five a second, while 64 callers send `flood` over and over."""
    flooding = asyncio.create_task(closed_loop("127.0.0.1", port, flood * (100_000 // len(flood)), 64))
    await asyncio.sleep(3)
    found = await arriving(port, quiet, PER_S)
    flooding.cancel()
    return found
