"""`jiffy push` into a real registry: what arrives is the image, bit for bit; refusals are one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from builder import image
from builder.build import Builder
from builder.processes import Processes
from builder.pull import Puller
from builder.registry import _Auth, _upload
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract.errors import BuildFailed, InvalidRequest
from jiffy.contract.messages import BuildRequest
from jiffy.contract.registry import Reference
from tests.builder.archives import digest, pack
from tests.registries import registry


@pytest.fixture
def made(warm_data: Path, interpreters: dict[str, Interpreter]) -> Path:
    archive = pack({"app.py": "def handler(event, context): ...\n"})
    request = BuildRequest("b", "default", "greet", {"handler": "app:handler"}, digest(archive), 0)
    builder = Builder(warm_data, interpreters, {}, Processes())
    builder.name("default/greet:1", builder.make(request, archive, lambda step: None).image)
    return warm_data


def push(data: Path, name: str, where: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jiffy.cli.main", "push", name, where, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_what_arrives_is_the_image_and_a_second_push_sends_nothing(made: Path, tmp_path: Path) -> None:
    with registry(tmp_path) as host:
        done = push(made, "greet", f"{host}/team/greet:1")
        assert done.returncode == 0, done.stderr
        asked = urllib.request.Request(
            f"http://{host}/v2/team/greet/manifests/1",
            headers={"accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        with urllib.request.urlopen(asked) as answer:
            manifest = answer.read()
        _, ours = image.find(made, "default", "greet")
        assert digest(manifest) == ours
        for part in json.loads(manifest)["layers"]:
            with urllib.request.urlopen(f"http://{host}/v2/team/greet/blobs/{part['digest']}") as answer:
                assert digest(answer.read()) == part["digest"]
        again = push(made, "greet:1", f"{host}/team/greet:latest")
        assert again.stderr.count("there already") == 3
        assert again.stdout.split() == [f"{host}/team/greet:latest", ours]


class Tokens(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = b'{"token": "let-me-in"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


def test_a_registry_that_wants_a_token_gets_one(made: Path, tmp_path: Path) -> None:
    tokens = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    tokens.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    more = f"auth: {{silly: {{realm: 'http://127.0.0.1:{tokens.server_port}/token', service: test}}}}"
    try:
        with registry(tmp_path, more) as host:
            done = push(made, "greet", f"{host}/greet")
            assert done.returncode == 0, done.stderr
    finally:
        tokens.shutdown()
        tokens.server_close()
    assert len(tokens.asked) == 1  # type: ignore[attr-defined]
    assert "scope=repository%3Agreet%3Apull%2Cpush" in tokens.asked[0]  # type: ignore[attr-defined]


def test_what_can_t_be_pushed_is_one_line(made: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
        for words, told in {
            ("greet", f"{nobody}/x"): "doesn't answer",
            ("other", f"{nobody}/x"): "no image of function 'other'",
            ("greet", "nothing"): "names no place in a registry",
            ("greet", f"{nobody}/UPPER"): "names no place in a registry",
        }.items():
            done = push(made, *words)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert told in done.stderr


def test_plain_http_is_for_this_machine_alone() -> None:
    assert Reference.parse("127.0.0.1:5000/a/b:c") == Reference("127.0.0.1:5000", "a/b", "c")
    schemes = {
        host: Reference.parse(f"{host}/x").scheme for host in ("localhost:5000", "[::1]:5000", "registry.example")
    }
    assert schemes == {"localhost:5000": "http", "[::1]:5000": "http", "registry.example": "https"}
    for text in (
        "x",
        "host/",
        "host/A",
        "host/a:",
        "http://host/a",
        "host/a@sha256:b",
        "host/../a",
        "127.0.0.1.evil.example",
    ):
        with pytest.raises(InvalidRequest):
            Reference.parse(text)
    assert Reference.parse("127.0.0.1.evil.example/a").scheme == "https"


REGISTRY_URL = httpx.URL("https://registry.example")
ASKED = httpx.Request("GET", "https://registry.example/v2/")


@pytest.mark.parametrize(
    "place",
    [
        *("http://127.0.0.1:9/x", "https://127.0.0.1:9/x", "https://localhost/x", "https://127.1/x", "https://0/x"),
        *("https://[::1]/x", "https://[::ffff:127.0.0.1]/x", "https://169.254.169.254/x", "http://other.example/x"),
    ],
)
@pytest.mark.parametrize("status", [302, 401])
def test_a_strangers_registry_leads_nowhere_on_this_host(place: str, status: int, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        headers = {"location": place, "www-authenticate": f'Bearer realm="{place}"'}
        return httpx.Response(status if request.url.host == "registry.example" else 404, headers=headers)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        of = Reference.parse("registry.example/x")
        with pytest.raises(BuildFailed, match=r"not safe|https only"):
            Puller(client, of, "", trusted=False).image("", tmp_path)
        assert asked == ["registry.example"]
        place = "https://other.example/x"
        with pytest.raises(BuildFailed, match="x:latest"):
            Puller(client, of, "", trusted=False).image("", tmp_path)
        assert "other.example" in asked
        with pytest.raises(BuildFailed, match="this host's own"):
            Puller(client, Reference.parse("169.254.169.254/x"), "", trusted=False)


def test_credentials_go_to_the_registry_alone() -> None:
    auth = _Auth("c2VjcmV0", "repository:x:push", REGISTRY_URL)
    for other in ("https://storage.example/up", "http://registry.example/up", "https://registry.example:444/up"):
        (sent,) = auth.auth_flow(httpx.Request("PUT", other))
        assert "authorization" not in sent.headers
    own = next(auth.auth_flow(httpx.Request("PUT", "https://registry.example/up")))
    assert own.headers["authorization"] == "Basic c2VjcmV0"


@pytest.mark.parametrize("realm", ["http://tokens.example/t", "http://127.0.0.1.evil.example/", "", "ftp://x/"])
def test_no_token_is_asked_for_in_the_clear(realm: str) -> None:
    flow = _Auth("c2VjcmV0", "repository:x:push", REGISTRY_URL).auth_flow(ASKED)
    next(flow)
    with pytest.raises(BuildFailed, match="token"):
        flow.send(httpx.Response(401, headers={"www-authenticate": f'Bearer realm="{realm}"'}, request=ASKED))


@pytest.mark.parametrize("location", ["", "http://storage.example/up", "http://127.0.0.1@evil.example/up"])
def test_an_upload_to_no_safe_place_is_refused(location: str) -> None:
    with pytest.raises(BuildFailed, match="no place to upload"):
        _upload(REGISTRY_URL, location, Reference.parse("registry.example/x"))


def test_an_upload_may_go_to_another_place() -> None:
    to = Reference.parse("registry.example/x")
    assert _upload(REGISTRY_URL, "/up?a=1", to) == httpx.URL("https://registry.example/up?a=1")
    assert _upload(REGISTRY_URL, "https://storage.example/up", to).host == "storage.example"
