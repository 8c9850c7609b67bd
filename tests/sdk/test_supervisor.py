"""What the supervisor does with its children while the platform ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from jiffy.home import Home
from jiffy.process import Command
from jiffy.supervisor import Phase, Plan, Supervisor


async def test_nothing_is_started_again_while_the_platform_ends(data_dir: Path) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    plan = Plan("127.0.0.1", 0, data_dir)
    supervisor = Supervisor(plan, say=said.put_nowait, ready=said.put_nowait)
    supervisor._phase = Phase.READY
    home = Home(data_dir, said.put_nowait)
    starts = data_dir / "starts"
    dies = f"echo >> {starts}; exit 1"
    leaves_late = f"trap 'sleep 1; exit 0' TERM; echo >> {data_dir}/up; while :; do sleep 0.01; done"
    for name, script in (("invoker", leaves_late), ("builder", dies)):
        supervisor._keep(home, Command(name, ["exec", "/bin/sh", "-c", script], home.log(name)))
    assert "the builder ended with status 1; starting it again" in await said.get()
    while not (data_dir / "up").exists():
        await asyncio.sleep(0.005)
    before = starts.read_text()
    supervisor._phase = Phase.ENDING
    await supervisor._end()
    assert starts.read_text() == before
    home.close()
