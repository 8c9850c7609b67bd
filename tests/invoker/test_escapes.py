"""Attempts to get out, to harm a neighbour or to run unbilled, on each driver. What walls merely look like from inside
is test_walls.py's; here each test is an attack that once worked, or that its author expected to.
"""

from __future__ import annotations

from .lab import Lab, call, result


async def test_what_the_agent_needs_cannot_be_replaced_under_it(lab: Lab) -> None:
    code = """
import os, time
clock, spin = time.monotonic_ns, time.monotonic
def hang():
    os.fork = None
    time.sleep(600)
os.fork = os.waitpid = os._exit = os.kill = hang
time.monotonic_ns = lambda: 0
def handler(event, context):
    began = spin()
    while spin() - began < 0.3:
        pass
    return clock() > 0
"""
    sandbox = await lab.sandbox(code)
    instance = await sandbox.fork()
    reply = await call(instance)
    assert reply[:2] == (True, b"true")
    assert reply.duration_us >= 300_000
    await instance.close()
    assert await result(await sandbox.fork()) is True
