"""What instances of one function share after the fork, and how its author keeps apart what they must not."""

from __future__ import annotations

from .lab import Lab, result

CHANCE = """
import os, random, secrets

own = random.Random()
forks = []
imported_in = os.getpid()


def fresh():
    own.seed()
    forks.append(os.getpid())


os.register_at_fork(after_in_child=fresh)
TABLE = {"made": "at import"}


def handler(event, context):
    TABLE["seen"] = TABLE.get("seen", 0) + 1
    return {
        "secrets": secrets.token_hex(8),
        "own": own.random(),
        "forks": forks == [os.getpid()] and os.getpid() != imported_in,
        "table": TABLE,
    }
"""


async def test_pythons_own_hook_makes_afresh_what_a_fork_would_copy(lab: Lab) -> None:
    sandbox = await lab.sandbox(CHANCE)
    answers = [await result(await sandbox.fork()) for _ in range(3)]
    for name in ("secrets", "own"):
        assert len({answer[name] for answer in answers}) == 3, name
    for answer in answers:
        assert answer["forks"], "os.register_at_fork's hook ran once, in the instance"
        assert answer["table"] == {"made": "at import", "seen": 1}
