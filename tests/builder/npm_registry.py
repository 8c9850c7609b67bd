"""A registry for npm on loopback: packages with one tarball for each version."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.builder.archives import pack


class Registry:
    """What it has; `asked` are the paths that were asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.documents: dict[str, dict[str, Any]] = {}
        self.tarballs: dict[str, bytes] = {}

    def add(self, name: str, version: str, files: Mapping[str, str], **manifest: Any) -> None:
        about = {"name": name, "version": version, **manifest}
        data = pack({f"package/{file}": text for file, text in {"package.json": json.dumps(about), **files}.items()})
        path = f"/{name}/-/{version}.tgz"
        self.tarballs[path] = data
        integrity = f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"
        document = self.documents.setdefault(name, {"name": name, "versions": {}, "dist-tags": {}})
        document["versions"][version] = about | {"dist": {"tarball": self.url + path, "integrity": integrity}}
        document["dist-tags"]["latest"] = version

    @property
    def environ(self) -> dict[str, str]:
        """Of a builder that uses it."""
        return {"npm_config_registry": self.url}


@contextmanager
def registry() -> Iterator[Registry]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path)
            served.asked.append(path)
            document = served.documents.get(path[1:])
            body = json.dumps(document).encode() if document else served.tarballs.get(path)
            self.send_response(404 if body is None else 200)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Registry(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
