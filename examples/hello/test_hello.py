"""A handler is a plain function, so its test is a plain call."""

from __future__ import annotations

import runpy
from pathlib import Path

handler = runpy.run_path(str(Path(__file__).with_name("hello.py")))["handler"]


def test_greets_whom_the_route_names() -> None:
    event = {"version": "2.0", "pathParameters": {"name": "Ada"}}
    assert handler(event, None)["message"] == "Hello, Ada!"


def test_greets_whom_a_direct_call_names() -> None:
    assert handler({"name": "Grace"}, None)["message"] == "Hello, Grace!"


def test_greets_the_world_when_nobody_is_named() -> None:
    assert handler({}, None)["message"] == "Hello, world!"
