"""Images of Node.js functions: packages of a registry and nothing else, reproducible, served by themselves."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from builder import image, inventory
from builder.build import Builder
from builder.lock import Lock
from builder.part import Step
from builder.processes import Processes
from builder.runtimes.nodejs import package
from jiffy.contract import httpevent, layout
from jiffy.contract.errors import BuildFailed
from jiffy.contract.messages import BuildRequest, Revision
from tests.builder.archives import digest, pack
from tests.builder.npm_registry import Registry, registry
from tests.builder.served import ask, running
from tests.conftest import NodeLayers, need

CODE = """
exports.handler = async (event, context) => {
  if (event.rawPath === "/boom") throw new TypeError("boom");
  if (event.rawPath === "/slow") await new Promise((done) => setTimeout(done, 60000));
  if (event.rawPath === "/while") await new Promise((done) => setTimeout(done, 500));
  if (event.rawPath === "/raw") return { statusCode: 201, headers: { "X-A": "b" }, cookies: ["c=1"], body: "made" };
  if (event.rawPath === "/stray") { Promise.reject(new Error("stray")); await new Promise((d) => setTimeout(d, 9000)); }
  return { who: require("greeter")(), name: context.functionName, user: process.getuid(), env: process.env.GREETING,
           query: event.queryStringParameters, x: event.x };
};
"""
PACKAGE = {"dependencies": {"greeter": "^1.0.0"}, "devDependencies": {"tester": "file:../tester"}}


class Host:
    """A builder with a data folder of its own."""

    def __init__(self, data: Path, layers: NodeLayers, environ: dict[str, str]) -> None:
        layers.seed(data)
        self.data, self.steps = data, list[Step]()
        nodes = {layers.node.runtime: layers.node}
        self.builder = Builder(data, {}, environ, Processes(), nodes=nodes)

    def make(self, files: dict[str, str], locked: Lock | None = None, **spec: Any) -> Revision:
        archive = pack(files)
        spec = {"handler": "app:handler", "runtime": "nodejs", "env": {"GREETING": "hello"}} | spec
        request = BuildRequest("b", "default", "greet", spec, digest(archive), 0)
        self.steps.clear()
        return self.builder.make(request, archive, self.steps.append, locked)

    def files(self, revision: Revision) -> set[str]:
        tree = layout.layer_tree(self.data, revision.layers[1].digest)
        return {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture
def npm(node_layers: NodeLayers) -> Iterator[Registry]:
    need("" if node_layers.node.npm else "no npm here")
    with registry() as served:
        inner = {"index.js": "module.exports = 'world';", "README.md": "", "index.d.ts": "", "docs/x.md": "x" * 200_000}
        served.add("@voice/inner", "2.1.0", inner, license="MIT")
        outer = {"index.js": "module.exports = () => require('@voice/inner');"}
        served.add("greeter", "1.0.0", outer, dependencies={"@voice/inner": "2"}, scripts={"install": "touch /tmp/ran"})
        yield served


@pytest.fixture
def host(node_layers: NodeLayers, npm: Registry, tmp_path: Path) -> Callable[[str], Host]:
    return lambda name: Host(tmp_path / name, node_layers, npm.environ)


def files(**package_json: Any) -> dict[str, str]:
    return {"app.js": CODE, "package.json": json.dumps(PACKAGE | package_json)}


def test_packages_are_installed_once_reproducibly_and_without_their_scripts(
    host: Callable[[str], Host], npm: Registry
) -> None:
    one = host("one")
    made = one.make(files())
    modules = "node_modules/@voice/inner"
    assert one.files(made) == {
        *("node_modules/greeter/index.js", "node_modules/greeter/package.json"),
        *(f"{modules}/index.js", f"{modules}/package.json", f"{modules}/docs/x.md"),
    }
    assert [step.text for step in one.steps if step.name == "warning"] == [
        "greeter has an install script, which is not run"
    ]
    again = one.make(files() | {"app.js": CODE + "//"})
    assert (again.layers[1], [step.cached for step in one.steps if step.name == "deps"]) == (made.layers[1], [True])
    assert host("two").make(files()).image == made.image
    taken = inventory.take(one.data, made.image)
    assert [(one.name, one.version, one.license) for one in taken.packages] == [
        ("@voice/inner", "2.1.0", "MIT"),
        ("greeter", "1.0.0", ""),
    ]
    why = {file.path: file.brought_by for file in taken.largest}
    assert why["/usr/local/bin/node"] == "Node.js with its library"
    assert why["/opt/nodejs/node_modules/@voice/inner/docs/x.md"] == "@voice/inner"
    document = json.loads(one.builder.sbom(made))
    assert "pkg:npm/%40voice/inner@2.1.0" in [part.get("purl") for part in document["components"]]


def test_a_lock_decides_the_folders_own_or_the_revisions(host: Callable[[str], Host], npm: Registry) -> None:
    one = host("one")
    first = one.make(files())
    lock = one.builder.lock_of(first)
    npm.add("greeter", "1.1.0", {"index.js": "module.exports = () => 'new';"})
    assert one.make(files(), lock).layers == first.layers
    own = files() | {"package-lock.json": "\n".join(lock.lines)}
    assert one.make(own).layers[1] == first.layers[1]
    with pytest.raises(BuildFailed, match=r"not those of the revision in service"):
        one.make(files(dependencies={"greeter": "1.1.0"}), lock)
    newer = host("newer")
    tree = layout.layer_tree(newer.data, newer.make(files()).layers[1].digest)
    assert json.loads((tree / "node_modules/greeter/package.json").read_text())["version"] == "1.1.0"


def test_a_package_that_is_not_what_the_lock_says_is_refused(host: Callable[[str], Host], npm: Registry) -> None:
    one = host("one")
    lock = one.builder.lock_of(one.make(files()))
    npm.add("greeter", "1.1.0", {"index.js": "evil"})
    npm.tarballs["/greeter/-/1.0.0.tgz"] = npm.tarballs["/greeter/-/1.1.0.tgz"]
    with pytest.raises(BuildFailed, match=r"(?i)dependencies: .*integrity"):
        host("other").make(files(), lock)


def test_what_a_lock_says_of_addresses_is_forgotten(host: Callable[[str], Host], npm: Registry) -> None:
    one = host("one")
    lock = json.loads("\n".join(one.builder.lock_of(one.make(files())).lines))
    for place, entry in lock["packages"].items():
        if place:
            entry["resolved"] = "http://127.0.0.1:9/elsewhere.tgz"
    made = host("two").make(
        files() | {"package-lock.json": json.dumps(lock), ".npmrc": "registry=http://127.0.0.1:9\n"}
    )
    assert made.layers[1].size_bytes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dependencies": {"x": "file:../x"}}, r"dependencies: 'x' is 'file:../x'; only packages of the registry"),
        ({"dependencies": {"x": "git+https://example.com/x.git"}}, "only packages of the registry"),
        ({"dependencies": {"x": "https://example.com/x.tgz"}}, "only packages of the registry"),
        ({"dependencies": {"x": "someone/x"}}, "only packages of the registry"),
        ({"dependencies": {"x": "npm:y@github:a/b"}}, "only packages of the registry"),
        *(({"dependencies": {"x": place}}, "only packages") for place in ("..", ".", ".cache", "x.tgz", "npm:y@..")),
        ({"dependencies": {"x": 1}}, "only packages of the registry"),
        ({"dependencies": {"../x": "1"}}, "is no package's name"),
        ({"dependencies": ["x"]}, "dependencies must be an object"),
        ({"overrides": {"a": {"b": "file:/etc"}}}, "only packages of the registry"),
        ({"workspaces": ["packages/*"]}, "workspaces"),
        ({"dependencies": {"nowhere": "1"}}, r"^dependencies: Not Found - GET \S*nowhere\S*(?: - \w[\w ]*)?$"),
        ({"dependencies": {"greeter": "^9"}}, "dependencies: .*greeter@"),
    ],
)
def test_what_else_a_folder_may_ask_for_is_refused(
    host: Callable[[str], Host], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BuildFailed, match=says):
        host("one").make(files(**changes))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"version": "1.0.0"}, "has no hash"),
        ({"version": "git+ssh://x", "integrity": "sha512-aa"}, "as its version"),
        ({"version": "1.0.0", "link": True}, "a folder of yours"),
        ({"version": "1.0.0", "integrity": "sha512-aa", "name": "../x"}, "as its name"),
    ],
)
def test_a_lock_of_anything_else_is_refused(entry: dict[str, Any], says: str) -> None:
    with pytest.raises(BuildFailed, match=says):
        package.parse_lock({"lockfileVersion": 3, "packages": {"node_modules/x": entry}}, {})
    with pytest.raises(BuildFailed, match="a folder of yours"):
        package.parse_lock({"lockfileVersion": 3, "packages": {"../x": entry}}, {})
    with pytest.raises(BuildFailed, match="npm 7"):
        package.parse_lock({"lockfileVersion": 1, "dependencies": {}}, {})


@pytest.mark.parametrize(
    ("source", "spec", "says"),
    [
        ({"other.mjs": "", "x.txt": ""}, {}, r"neither app.js nor app.mjs nor app.cjs; the folder's modules are other"),
        ({"app.js": "let a;\nlet b = ;\n"}, {}, "app.js, line 2: SyntaxError: Unexpected token ';'"),
        ({"app.js": "", "package.json": "{"}, {}, "package.json: not valid JSON"),
        ({"app.js": ""}, {"slim": True}, "slim = true is for Python"),
        ({"app.js": ""}, {"runtime": "nodejs99"}, "no such Node.js"),
    ],
)
def test_a_function_that_can_not_work_is_refused_by_name(
    host: Callable[[str], Host], source: dict[str, str], spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(BuildFailed, match=says):
        host("one").make(source, **spec)


REQUESTS = [
    ("GET", "/", "", [], b""),
    ("GET", "/a b/%41", "a=1&b=%20+x&a=2&c&%FF=%e2%98%83", [("host", "x.example:1"), ("user-agent", "me")], b""),
    ("POST", "/é", "", [("cookie", "a=1; b=2"), ("cookie", "c=3"), ("x", "1"), ("x", "2")], "ü".encode()),
    ("PUT", "/x", "", [("content-type", "text/plain")], b"\xff\x00"),
    ("PUT", "/x", "", [("content-type", "image/png")], b"\x89PNG"),
    ("PUT", "/x", "", [("content-type", "application/problem+json; x=y"), ("__proto__", "z")], b"\xef\xbb\xbf{}"),
]
RESULTS: list[Any] = [
    *(None, 1, "statusCode", {"a": 1}, [{"statusCode": 1}], {"statusCode": 204}, {"statusCode": "201", "body": "ü"}),
    {"statusCode": 200, "headers": {"X-A": 1, "Connection": "close", "B": True}, "cookies": ["a=1", "b"], "body": ""},
    {"statusCode": 200, "multiValueHeaders": {"Set-Cookie": ["a", "b"], "x": ["1"]}, "headers": {"X": "0", "y": "2"}},
    {"statusCode": 200, "isBase64Encoded": True, "body": "/+8="},
    *({"statusCode": status} for status in (100, 600, "x", None, 1e99, [])),
    *({"statusCode": 200, "body": body} for body in (1, {}, [])),
    *({"statusCode": 200, "isBase64Encoded": True, "body": body} for body in ("a", "a b=", "====")),
    *(
        {"statusCode": 200, "headers": headers}
        for headers in ([1], {"": "x"}, {"a b": "c"}, {"a": "b\nc"}, {"a": None})
    ),
    {"statusCode": 200, "headers": {"a": "☃"}},
    {"statusCode": 200, "cookies": {"a": "b"}},
]


def test_an_event_and_a_response_are_the_same_as_on_the_platform(node_layers: NodeLayers, tmp_path: Path) -> None:
    module = Path(package.__file__).with_name("httpevent.mjs")
    script = tmp_path / "both.mjs"
    script.write_text(
        f"""import {{ event, response, unquote, Unfit }} from {json.dumps(str(module))};
const {{ requests, results }} = JSON.parse(process.argv[2]);
const answer = (result) => {{
  try {{
    const [status, headers, body] = response(JSON.stringify(result));
    return [status, headers, body.toString("base64")];
  }} catch (thrown) {{
    if (!(thrown instanceof Unfit)) throw thrown;
    return "refused";
  }}
}};
console.log(JSON.stringify([
  requests.map(([method, path, rawQuery, headers, body]) => event({{ method, path, rawQuery, headers,
    body: Buffer.from(body, "base64"), sourceIp: "10.0.0.1", requestId: "1", protocol: "HTTP/1.1", nowMs: 1e12 }})),
  results.map(answer),
  ["/%41%zz%e2%98%83", "/%ff"].map(unquote),
]));
"""
    )
    asked = {"requests": [(*r[:4], _base64(r[4])) for r in REQUESTS], "results": RESULTS}
    command = [str(node_layers.node.executable), str(script), json.dumps(asked)]
    events, answers, paths = json.loads(subprocess.check_output(command, timeout=30))
    assert paths == ["/A%zz☃", "/\ufffd"]
    for (method, path, query, headers, body), event in zip(REQUESTS, events, strict=True):
        common: dict[str, Any] = {"source_ip": "10.0.0.1", "request_id": "1", "now_ms": 10**12}
        ours = httpevent.event(method=method, path=path, raw_query=query, headers=headers, body=body, **common)
        assert json.loads(event) == json.loads(ours)
    for result, answer in zip(RESULTS, answers, strict=True):
        try:
            status, pairs, content = httpevent.response(json.dumps(result, ensure_ascii=False).encode())
            expected: Any = [status, [list(pair) for pair in pairs], _base64(content)]
        except ValueError:
            expected = "refused"
        if expected != "refused" and "statusCode" not in (result if isinstance(result, dict) else {}):
            expected[2] = _base64(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode())
        assert answer == expected, result


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.docker
def test_docker_loads_the_image_and_it_answers_by_itself(
    docker_engine: docker.DockerClient, host: Callable[[str], Host], tmp_path: Path
) -> None:
    one = host("one")
    made = one.make(files(), timeout_s=1)
    image.export(one.data, made.image, archive := tmp_path / "greet.tar", "jiffy-test/greet-node:1")
    with running(docker_engine, archive) as port:
        status, headers, body = ask(port, "GET", "/hello?a=1&a=2")
        assert (status, headers["content-type"]) == (200, "application/json")
        expected = {"who": "world", "name": "greet", "user": 65534, "env": "hello", "query": {"a": "1,2"}}
        assert json.loads(body) == expected
        status, headers, body = ask(port, "POST", "/raw", b"{}")
        assert (status, headers["x-a"], headers["set-cookie"], body) == (201, "b", "c=1", b"made")
        status, _, body = ask(port, "POST", "/2015-03-31/functions/function/invocations", b'{"x": 7}')
        assert (status, json.loads(body)["x"]) == (200, 7)
        status, _, body = ask(port, "GET", "/boom")
        assert (status, json.loads(body)["errorType"], json.loads(body)["errorMessage"]) == (502, "TypeError", "boom")
        status, _, body = ask(port, "POST", "/x", b"x" * (6 * 1024 * 1024 + 1))
        assert status == 413
        with socket.create_connection(("127.0.0.1", port), timeout=30) as hasty:
            hasty.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nthat was all")
        status, _, body = ask(port, "GET", "/while")
        assert (status, json.loads(body)["who"]) == (200, "world"), "who hangs up ends nobody else's call"
        status, _, body = ask(port, "GET", "/slow")
        assert (status, json.loads(body)["errorMessage"][37:]) == (504, "Task timed out after 1.00 seconds")
