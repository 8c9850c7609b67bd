"""http triggers: what they declare becomes routes and edges; what makes no sense, or would be unsafe, is refused."""

from __future__ import annotations

from typing import Any

import pytest

from jiffy.contract import edges, limits, spec, wire
from jiffy.contract.errors import SpecError
from jiffy.contract.messages import BuildRequest

HEAD = '[functions.api]\nhandler = "api:handler"\n'


def declare(*tables: str, more: str = "") -> spec.FunctionSpec:
    text = HEAD + more + "".join(f"[[functions.api.triggers]]\ntype = 'http'\n{table}\n" for table in tables)
    return spec.parse_toml(text)[0]


def edge(table: str) -> edges.Edge:
    (found,) = set(edges.declared(declare(table).triggers).values())
    return found


def test_methods_hosts_and_greedy_paths_become_routes_beside_the_plain_ones() -> None:
    one = declare(
        "path = '/items/{id}'\nmethods = ['get', 'PUT']\nhost = 'API.example.com'",
        "path = '/files/{rest+}'",
        more="routes = ['GET /']\n",
    )
    assert one.every_route == (
        *("GET /", "GET api.example.com/items/{id}", "PUT api.example.com/items/{id}"),
        "ANY /files/{rest+}",
    )
    assert [*edges.declared(one.triggers)] == [*one.every_route[1:]]


def test_without_a_path_it_is_about_the_functions_own_url() -> None:
    one = declare("rate_per_s = 5")
    assert one.every_route == ()
    assert edges.declared(one.triggers)[""].burst == 5


def test_a_declaration_that_came_by_the_wire_reads_the_same() -> None:
    one = declare(
        "path = '/a'\nmethods = ['GET']\ncors = { origins = ['https://*.example.com'], credentials = true }",
        "path = '/b'\nresponse = { body = 'ok' }",
        "path = '/c/{x}'\nredirect = '/a?x={x}'",
    )
    request = BuildRequest("b", "default", "api", one.to_dict(), "sha256:0", 0)
    carried = wire.unpack(BuildRequest, wire.pack(request)).spec
    assert spec.parse_function("api", carried) == one
    assert edges.declared(carried["triggers"]) == edges.declared(one.triggers)


def test_what_a_fixed_response_is_made_of() -> None:
    fixed = edge(
        "path = '/robots.txt'\nresponse = { body = 'Disallow: /', headers = { Cache-Control = 'max-age=60' } }"
    )
    assert fixed.fixed is not None
    assert (fixed.fixed.status, fixed.fixed.body) == (200, b"Disallow: /")
    assert set(fixed.fixed.headers) == {("content-type", "text/plain; charset=utf-8"), ("cache-control", "max-age=60")}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (["https://a.example"], "https://a.example", True),
        (["https://a.example"], "HTTPS://A.example", True),
        (["https://a.example"], "http://a.example", False),
        (["https://a.example"], "https://a.example:8443", False),
        (["https://a.example"], "https://a.example.evil.test", False),
        (["https://*.a.example"], "https://x.y.a.example", True),
        (["https://*.a.example"], "https://a.example", False),
        (["https://*.a.example"], "https://evila.example", False),
        (["https://*.a.example"], "https://evil.test/.a.example", False),
        (["*"], "https://whoever.test", True),
        (["https://a.example"], "null", False),
    ],
)
def test_whose_pages_are_allowed(origins: list[str], origin: str, allowed: bool) -> None:
    assert edges.Cors(tuple(origins)).allows(origin) is allowed


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("path = 'items'", "a path such as"),
        ("path = '/v1/items'", "belongs to the platform"),
        ("path = '/{a+}/b'", "must stand last"),
        ("path = '/a'\nmethods = ['FETCH']", "a list of GET, HEAD"),
        ("path = '/a'\nmethods = []", "a list of GET, HEAD"),
        ("path = '/a'\nmethods = ['ANY', 'GET']", "alone"),
        ("path = '/a'\nhost = 'a b'", "a host such as"),
        ("path = '/a'\nhost = 'a.*.b'", "a host such as"),
        ("host = 'a.example'", "host needs a path"),
        ("path = '/a'\ncors = { origins = [] }", "origins"),
        ("path = '/a'\ncors = { origins = ['https://a.example/path'] }", "no path"),
        ("path = '/a'\ncors = { origins = ['*'], credentials = true }", "any page could act as the user"),
        ("path = '/a'\ncors = { origin = ['*'] }", "not 'origin'"),
        ("path = '/a'\nrate_per_s = -1", "a number from 0"),
        ("path = '/a'\nburst = 5", "burst needs rate_per_s"),
        (f"path = '/a'\nbody_max_bytes = {limits.PAYLOAD_MAX_BYTES + 1}", "body_max_bytes ="),
        ("path = '/a'\nresponse = { status = 99 }", "200 to 599"),
        (
            "path = '/a'\nresponse = { headers = { x = 'a\\u0007b' } }".replace("'a\\u0007b'", '"a\\u0007b"'),
            "response =",
        ),
        ("path = '/a'\nredirect = { to = '//evil.test' }", "redirect ="),
        ("path = '/a/{h}'\nredirect = { to = 'https://{h}/' }", "only after the host"),
        ("path = '/a/{h}'\nredirect = { to = 'https://good.example{h}' }", "only after the host"),
        ("path = '/a'\nredirect = { to = 'javascript:alert(1)' }", "redirect ="),
        ("path = '/a'\nredirect = { to = '/b', status = 200 }", "status is one of 301"),
        ("path = '/a'\nredirect = { to = '/b/{id}' }", "{id}, which is not in path"),
        ("path = '/a'\nredirect = '/b'\nresponse = { body = 'x' }", "exclude each other"),
        ("redirect = '/b'", "need a path"),
        ("path = '/a'\ncompres = true", "did you mean 'compress'?"),
    ],
)
def test_a_mistake_names_its_place(table: str, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        declare(table)
    assert caught.value.message.startswith("jiffy.toml: [[functions.api.triggers]] 'http': ")
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("declared", "part"),
    [
        ({"tables": ["path = '/a/{x}'", "path = '/a/{y}'"]}, "'ANY /a/{x}' and 'ANY /a/{y}' take the same requests"),
        ({"tables": ["path = '/a'\nmethods = ['GET']"], "more": "routes = ['GET /a']\n"}, "take the same requests"),
        ({"tables": ["etag = true", "compress = true"]}, "one URL of its own"),
        ({"tables": [f"path = '/a{n}'\nmethods = ['GET', 'PUT']" for n in range(30)]}, "at most 50"),
    ],
)
def test_triggers_that_contradict_each_other(declared: dict[str, Any], part: str) -> None:
    with pytest.raises(SpecError, match=part.replace("{", r"\{").replace("}", r"\}")):
        declare(*declared["tables"], more=declared.get("more", ""))
