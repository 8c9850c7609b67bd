"""Real databases and a real ledger on them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.keyring import OWNER
from gateway.ledger import Ledger, open_ledger
from gateway.ledger.prices import PriceList
from tests.conftest import need
from tests.ledger.records import NOON_MS


def owned(app: ASGIApp) -> ASGIApp:
    """Control routes without the gateway around them, for the platform's owner: app.py says who asks."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "caller": OWNER}, receive, send)

    return asked


def _initdb() -> Path | None:
    if importlib.util.find_spec("psycopg") is None:
        return None
    found = shutil.which("initdb")
    return Path(found) if found else max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)


INITDB = _initdb()
DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of our own, where one is installed."""
    need("" if INITDB else "there is no PostgreSQL (apt: postgresql)")
    initdb = str(INITDB)
    folder = Path(tempfile.mkdtemp(prefix="jiffy-test-pg-"))
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = "postgres"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    run = {"user": user, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    data, ctl = str(folder / "data"), str(Path(initdb).with_name("pg_ctl"))
    try:
        subprocess.run([initdb, "-D", data, "-A", "trust", "-U", "jiffy", "-E", "UTF8"], **run)
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([ctl, "-D", data, "-w", "-o", options, "start"], **run)
        yield f"postgresql+psycopg://jiffy@/postgres?host={folder}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run([ctl, "-D", data, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        return
    url: str = request.getfixturevalue("postgres_url")
    yield url
    _empty(url)


def _empty(url: str) -> None:
    from sqlalchemy import create_engine

    from gateway.ledger.tables import metadata

    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()


@contextlib.asynccontextmanager
async def opened(database_url: str, redis_url: str, price_list: PriceList | None = None) -> AsyncIterator[Ledger]:
    """A ledger that settles only when asked, at noon of 2026-11-01."""
    ledger = await open_ledger(database_url, redis_url, lambda: NOON_MS, price_list)
    try:
        yield ledger
    finally:
        await ledger.close()


@pytest.fixture
async def ledger(tmp_path: Path, redis_url: str) -> AsyncIterator[Ledger]:
    async with opened(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", redis_url) as one:
        yield one
