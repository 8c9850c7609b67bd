"""A mistake in jiffy.toml names the place, the key, what was found and what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy.contract import limits, spec
from jiffy.contract.errors import SpecError

HELLO = '[functions.hello]\nhandler = "hello:handler"\n'


def test_defaults_of_the_smallest_declaration() -> None:
    (one,) = spec.parse_toml(HELLO)
    assert one == spec.FunctionSpec("hello", "hello:handler", env={}, tags={})
    assert (one.memory_mb, one.timeout_s, one.network) == (128, 3.0, False)


def test_several_functions_keep_the_order_of_the_file() -> None:
    text = "".join(f'[functions.{name}]\nhandler = "m:{name}"\n' for name in ("zeta", "alpha", "mid"))
    assert [one.name for one in spec.parse_toml(text)] == ["zeta", "alpha", "mid"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("hello:handler", "hello:handler"), ("hello.handler", "hello:handler"), ("pkg/mod.handler", "pkg.mod:handler")],
)
def test_lambdas_way_to_write_a_handler_works_too(written: str, meant: str) -> None:
    assert spec.parse_function("f", {"handler": written}).handler == meant


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("memory_mb = 12", ("memory_mb = 12", "from 64 to 10240")),
        ("memory_mb = true", ("memory_mb = True", "whole number")),
        ("timeout_s = 901", ("timeout_s = 901", "0.1 to 900")),
        ("timeout = 3", ("unknown key 'timeout'", "did you mean 'timeout_s'?", "allowed:")),
        ('runtime = "node20"', ("runtime = 'node20'", "python3")),
        ("network = 1", ("network = 1", "true or false")),
        ('routes = ["FETCH /x"]', ("FETCH /x", "GET")),
        ('routes = ["GET /v1/x"]', ("/v1 belongs to the platform",)),
        ('routes = ["GET /x", "GET /x"]', ("routes: 'GET /x' stands there twice",)),
        ("env = { JIFFY_X = 'y' }", ("env: 'JIFFY_X' is reserved", "may not begin with")),
        ("env = { A = 1 }", ("env: A must be a string, not int",)),
        ("env = 'A=1'", ("env = a str; allowed: a table of strings",)),
        ("tags = { team = 1 }", ("tags =", "table of strings")),
        ("tags = { Team = 'x' }", ("lower-case letters", "'Team'")),
        ("tags = { team = 'x,y=z' }", ("'x,y=z'", "letters, digits and")),
        ("max_instances = 0", ("max_instances = 0", "from 1 to")),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(line: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_toml(HELLO + line, "here/jiffy.toml")
    message = caught.value.message
    assert message.startswith("here/jiffy.toml: [functions.hello]")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_all_mistakes_of_a_table_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_toml('[functions.f]\nmemory = 1\ntimeout_s = 0\nroutes = ["x"]\n', "j")
    unknown, timeout, routes, handler = caught.value.message.split("\n")
    assert unknown.startswith("j: [functions.f]: unknown key 'memory'")
    assert timeout == "j: [functions.f]: timeout_s = 0; allowed: a number of seconds from 0.1 to 900"
    assert routes.startswith("j: [functions.f]: routes: 'x' does not begin with a method")
    assert handler.startswith("j: [functions.f]: handler is missing")


@pytest.mark.parametrize(
    "env", ["'PASSWORD=hunter2'", "{ PYTHONPATH = 'hunter2' }", "{ A = ['hunter2'] }", '{ A = "hunter2\\u0000" }']
)
def test_no_value_of_the_environment_is_in_an_error(env: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_toml(HELLO + f"env = {env}")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "declares no function"),
        ("[functions.hello", "not valid TOML"),
        ("[function.hello]\nhandler='a:b'", "did you mean 'functions'?"),
        ("[functions.hello]\n", "handler is missing"),
        ('[functions.hello]\nruntime = "image"\n', "image is missing"),
        ('[functions.hello]\nruntime = "image"\nimage = "archive:/etc/shadow"\n', '"archive:PATH"'),
        (HELLO + "http_port = 8080\n", 'http_port is for runtime = "image"'),
        (HELLO + 'runtime = "nodejs"\nstream = true\n', "only Python's functions answer piece by piece"),
        ('[functions.Hello]\nhandler="a:b"', "can't name a function"),
        ('[functions.a]\nhandler="a:b"\nroutes=["GET /x"]\n[functions.b]\nhandler="a:b"\nroutes=["GET /x"]', "both"),
        ("functions = 3", "declares no function"),
        ("[functions]\nhello = 3", "must be a table, not 3"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_toml(text)
    assert part in caught.value.message


@pytest.mark.parametrize("name", ["a", "a1", "long-name-2", "a" * limits.NAME_MAX_CHARS])
def test_good_names(name: str) -> None:
    assert spec.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "a_b", "a--b", "-a", "a-", "a:b", "a/b", "ä", "a\n", "a" * 65, 7, None]
)
def test_bad_names(name: object) -> None:
    with pytest.raises(SpecError):
        spec.check_name(name)


SPECS: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    handler=st.sampled_from(["a:b", "pkg.mod:fn"]),
    memory_mb=st.integers(limits.MEMORY_MIN_MB, limits.MEMORY_MAX_MB),
    timeout_s=st.floats(limits.TIMEOUT_MIN_S, limits.TIMEOUT_MAX_S),
    max_instances=st.integers(1, limits.INSTANCES_MAX),
    network=st.booleans(),
    env=st.dictionaries(
        st.from_regex(r"[A-IM-OQ-Z][A-Z0-9]{0,8}", fullmatch=True), st.text("xyz", max_size=9), max_size=4
    ),
    routes=st.lists(st.sampled_from(["GET /a", "ANY /b/{c}", "PUT /d/{e+}"]), unique=True),
    description=st.text(max_size=50),
    tags=st.dictionaries(
        st.from_regex("[a-z][a-z0-9_-]{0,9}", fullmatch=True), st.sampled_from(["x", "a/b:1"]), max_size=10
    ),
)


@given(SPECS)
def test_what_is_written_out_reads_back_the_same(table: dict[str, object]) -> None:
    one = spec.parse_function("f", table)
    assert spec.parse_function("f", one.to_dict()) == one


def test_no_more_instances_are_kept_ready_than_there_may_be() -> None:
    table = {"handler": "m:f", "min_instances": 3}
    assert spec.parse_function("f", table | {"max_instances": 3}).min_instances == 3
    with pytest.raises(SpecError, match=r"min_instances = 3; allowed: at most max_instances, which is 2$"):
        spec.parse_function("f", table | {"max_instances": 2})
    with pytest.raises(SpecError, match=r"min_instances = 10000; allowed: at most max_instances"):
        spec.parse_function("f", table | {"min_instances": 10_000})
