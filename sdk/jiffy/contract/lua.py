"""Lua scripts that share rules: those of burial.py and lines.py hold in the gateway's scripts and in the invoker's."""

from __future__ import annotations


def script(text: bytes, *rules: bytes) -> bytes:
    """`text` with the functions of these rules in it, behind its flags where it has some."""
    flags, newline, rest = text.partition(b"\n") if text.startswith(b"#!") else (b"", b"", text)
    return flags + newline + b"".join(rules) + rest
