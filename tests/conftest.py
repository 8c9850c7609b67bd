"""What every room's tests may ask for: a real queue, a data folder, a Docker engine.

A part that is missing on a laptop skips the tests that need it, with the reason; with CI=true it fails them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import docker
import pytest

from builder.layers import LayerStore, StoredLayer
from builder.runtimes.nodejs import base, node
from jiffy.contract import layout
from tests import servers


@dataclass
class NodeLayers:
    """A data folder with a base layer of Node.js, to be copied into others."""

    data: Path
    node: node.Node
    base: StoredLayer

    def seed(self, data: Path) -> None:
        """Put it into another data folder, as links."""
        for kept in (*self.data.glob(f"{layout.LAYERS}/sha256-*"), self.data / layout.OCI, self.data / layout.CACHE):
            place = data / kept.relative_to(self.data)
            if kept.exists() and not (kept.name.startswith("sha256-") and place.exists()):
                shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    if not Path(target).exists():
        Path(target).hardlink_to(source)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.RedisServer]:
    """The session's server. A test that kills or stops one starts its own with `servers.valkey()`."""
    with servers.valkey() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: servers.RedisServer) -> str:
    """URL of a real, empty server."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session", autouse=True)
def _passable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """pytest makes its folders 0700; sandboxes' users, who are others, must get through to what lies in them."""
    base = tmp_path_factory.getbasetemp()
    for made in (base, *base.parents):
        if made.name.startswith(("pytest-", "popen-")):
            made.chmod(0o755)


@pytest.fixture
def data_dir(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty platform data folder that other users may enter, as sandboxes' users must."""
    folder = tmp_path / "data"
    folder.mkdir()
    base = tmp_path_factory.getbasetemp()
    ours = base.parent if base.parent.name.startswith("pytest-of-") else base
    for made in (folder, *folder.parents):  # pytest makes its folders 0700
        made.chmod(0o755)
        if made == ours:
            break
    return folder


@pytest.fixture
def docker_engine() -> Iterator[docker.DockerClient]:
    """A client of an engine that answers."""
    need(engine_trouble())
    client = docker.from_env(timeout=60)
    try:
        yield client
    finally:
        client.close()


@cache
def engine_trouble() -> str:
    """Why no Docker engine can be used here; "" when one answers."""
    try:
        client = docker.from_env(timeout=10)
    except docker.errors.DockerException as exc:
        return f"no Docker engine answers: {exc}"
    try:
        client.ping()
        return ""
    except docker.errors.DockerException as exc:
        return f"no Docker engine answers: {exc}"
    finally:
        client.close()


@pytest.fixture(scope="session")
def node_layers(tmp_path_factory: pytest.TempPathFactory) -> NodeLayers:
    """The base layer of the host's Node.js, made once for all tests that need it."""
    nodes = node.find_all(os.environ)
    need("" if nodes else f"no Node.js of {node.OLDEST} or later here")
    chosen = node.choose("nodejs", nodes)
    data = tmp_path_factory.mktemp("node-layers")
    return NodeLayers(data, chosen, base.layer(LayerStore(data), chosen)[0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker"):
        need(engine_trouble())
    if item.get_closest_marker("root"):
        need("" if os.geteuid() == 0 else "needs to be run by root")


def need(trouble: str) -> None:
    """Skip the test for this reason, or fail it in CI; "" is no trouble."""
    if not trouble:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing skips: {trouble}", pytrace=False)
    pytest.skip(trouble)
