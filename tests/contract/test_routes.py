"""Which function answers a path: literal beats parameter beats rest, a method beats ANY, first come keeps a route."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy.contract.routes import Match, RouteTable, parse


def table(**functions: list[str]) -> RouteTable:
    made = RouteTable()
    for name, routes in functions.items():
        made.replace("default", name, tuple(routes))
    return made


def owner(made: RouteTable, method: str, path: str) -> tuple[str, dict[str, str]]:
    found = made.find(method, path)
    assert isinstance(found, Match)
    return found.function, found.parameters


def test_literal_beats_parameter_beats_rest() -> None:
    made = table(rest=["GET /a/{r+}"], parameter=["GET /a/{p}"], literal=["GET /a/b"])
    assert owner(made, "GET", "/a/b") == ("literal", {})
    assert owner(made, "GET", "/a/c") == ("parameter", {"p": "c"})
    assert owner(made, "GET", "/a/c/d") == ("rest", {"r": "c/d"})


def test_a_dead_end_on_the_better_way_falls_back() -> None:
    made = table(literal=["GET /a/b/c"], parameter=["GET /a/{p}/d"])
    assert owner(made, "GET", "/a/b/d") == ("parameter", {"p": "b"})


def test_a_stated_method_beats_any() -> None:
    made = table(any=["ANY /x"], get=["GET /x"])
    assert owner(made, "GET", "/x")[0] == "get"
    assert owner(made, "DELETE", "/x")[0] == "any"


def test_head_goes_where_get_does() -> None:
    made = table(a=["GET /x", "ANY /y"], b=["HEAD /x", "GET /z/{rest+}"])
    assert [owner(made, "HEAD", path)[0] for path in ("/x", "/y", "/z/1/2")] == ["b", "a", "b"]


def test_a_wrong_method_is_told_which_are_right() -> None:
    made = table(f=["GET /x", "PUT /x"])
    assert made.find("POST", "/x") == ("GET", "HEAD", "PUT")
    assert made.find("GET", "/y") == ()


def test_the_root_and_trailing_slashes() -> None:
    made = table(root=["GET /"], x=["GET /x"])
    assert owner(made, "GET", "/") == ("root", {})
    assert made.find("GET", "/x/") == ()


def test_a_route_that_another_function_holds_stays_there() -> None:
    made = table(first=["GET /x"])
    made.replace("default", "second", ("GET /x", "GET /y"))
    assert owner(made, "GET", "/x")[0] == "first"
    assert made.owner(parse("GET /x")) == ("default", "first")
    made.remove("default", "first")
    assert made.find("GET", "/x") == ()
    made.replace("default", "second", ("GET /x", "GET /y"))
    assert owner(made, "GET", "/x")[0] == "second"


def test_replacing_a_functions_routes_drops_the_old_ones() -> None:
    made = table(f=["GET /old", "GET /kept"])
    made.replace("default", "f", ("GET /kept", "GET /new"))
    assert made.find("GET", "/old") == ()
    assert owner(made, "GET", "/new")[0] == owner(made, "GET", "/kept")[0] == "f"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("/x", "does not begin with a method"),
        ("GET x", "no path beginning"),
        ("GET /{a}/{a}", "twice"),
        ("GET " + "/a" * 5000, "more than 64 segments"),
        ("GET /{a+}/b", "must stand last"),
        ("GET /a b", "neither plain text"),
        ("GET /{a", "neither plain text"),
        ("GET /function/x", "belongs to the platform"),
        ("GET //x", "neither plain text"),
    ],
)
def test_a_malformed_route_says_what_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse(text)


SEGMENT = st.sampled_from(["a", "b", "{p}", "{q}"])


@given(st.lists(st.lists(SEGMENT, min_size=1, max_size=3, unique=True), min_size=1, max_size=8), st.randoms())
def test_every_route_that_is_owned_is_found_and_removal_leaves_nothing(paths: list[list[str]], random: object) -> None:
    made = RouteTable()
    for n, path in enumerate(paths):
        made.replace("t", f"f{n}", (f"GET /{'/'.join(path)}",))
    for path in paths:
        concrete = "/" + "/".join("zz" if part.startswith("{") else part for part in path)
        assert isinstance(made.find("GET", concrete), Match)
    for n in range(len(paths)):
        made.remove("t", f"f{n}")
    for path in paths:
        assert made.find("GET", "/" + "/".join("zz" if part.startswith("{") else part for part in path)) == ()
