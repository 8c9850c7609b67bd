"""Reads an image out of a Docker engine on this host: what `docker save` would write. The builder asks it nothing else.

Spoken over the engine's socket; $DOCKER_HOST may name another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import httpx

from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed, Unavailable

SOCKET = "/var/run/docker.sock"
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
_CHUNK = 1024 * 1024


def save(name: str, path: Path, environ: Mapping[str, str]) -> None:
    """Write the engine's image `name` to the new file `path`, as an archive. Raises BuildFailed or Unavailable."""
    host = environ.get("DOCKER_HOST") or f"unix://{SOCKET}"
    if not host.startswith("unix://"):
        raise BuildFailed(f"image: the engine at {host} is on no socket of this host; push the image to a registry")
    transport = httpx.HTTPTransport(uds=host.removeprefix("unix://"))
    try:
        with (
            httpx.Client(transport=transport, base_url="http://engine", timeout=_TIMEOUT, trust_env=False) as client,
            client.stream("GET", f"/images/{quote(name, safe=':/@')}/get") as answer,
        ):
            if answer.status_code in (404, 500):  # what it says of a name that it doesn't know, by version
                raise BuildFailed(f"image: the engine has no image {name!r}: `docker pull {name}` fetches it")
            answer.raise_for_status()
            _write(answer, path)
    except httpx.HTTPError as exc:
        raise Unavailable(f"no Docker engine answers: {exc}") from exc


def _write(answer: httpx.Response, path: Path) -> None:
    size = 0
    with path.open("xb") as file:
        for piece in answer.iter_raw(_CHUNK):
            size += len(piece)
            if size > limits.IMAGE_MAX_BYTES:
                raise BuildFailed(f"image: it has more than {limits.IMAGE_MAX_BYTES // limits.MIB} MiB")
            file.write(piece)
