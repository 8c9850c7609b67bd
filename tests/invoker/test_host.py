"""What the invoker knows of its host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from invoker import host
from invoker.cgroupfs import remove
from invoker.hierarchy import hierarchy
from jiffy.contract.limits import MIB
from tests.conftest import need

LIMIT_MB = 400
LOOK = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from invoker import host
before = host.memory()
held = bytearray(200 << 20)
print(before.total_mb, before.free_mb, host.memory().free_mb)
"""


def test_its_memory_is_what_the_kernel_says() -> None:
    found = host.memory()
    total = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    assert 0 < found.free_mb < found.total_mb <= total


@pytest.mark.root
def test_a_limit_around_the_invoker_counts_as_its_hosts_memory() -> None:
    found = hierarchy()
    if found is None or not os.access(found.folders()["memory"], os.W_OK):
        need("no control groups that can be written")
    assert found is not None
    outer = found.folders()["memory"] / f"jiffy-host-{os.getpid()}"
    inner = outer / "inner"  # the limit is one level above
    try:
        outer.mkdir()
        if found.version == 2:
            (outer / "cgroup.subtree_control").write_text("+memory")
        inner.mkdir()
        (outer / found.names.limit[0]).write_text(str(LIMIT_MB * MIB))
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(inner)], capture_output=True, text=True, check=False, timeout=60
        )
    finally:
        remove(outer)
    assert done.returncode == 0, done.stderr
    total, before, after = map(int, done.stdout.split())
    assert total == LIMIT_MB and before <= LIMIT_MB
    assert 190 < before - after < 260, "what is used is no longer free"
