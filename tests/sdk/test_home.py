"""One data folder, one platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jiffy import home
from jiffy.contract.errors import Unavailable
from jiffy.home import Home


def silent(line: str) -> None:
    raise AssertionError(f"nothing to say, but: {line}")


def test_a_folder_is_made_and_can_be_taken_again_after_close(tmp_path: Path) -> None:
    for _ in range(2):
        one = Home(tmp_path / "deep/data", silent)
        assert one.run.is_dir() and one.valkey.is_dir() and one.log("gateway").parent.is_dir()
        one.close()


def test_a_second_platform_is_told_who_has_it(tmp_path: Path) -> None:
    one = Home(tmp_path, silent)
    with pytest.raises(Unavailable, match=rf"in use by another `jiffy up` \(process {os.getpid()}\)"):
        Home(tmp_path, silent)
    one.close()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"can't use .*file as data folder: .*--data"):
        Home(tmp_path / "file", silent)
    with pytest.raises(Unavailable, match="Not a directory"):
        Home(tmp_path / "file/below", silent)


NOBODY = """
import os, sys
from pathlib import Path
from jiffy.home import Home
os.setuid(65534)
Home(Path(sys.argv[1]), print)
"""


@pytest.mark.root
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", NOBODY, str(tmp_path / "data")], capture_output=True, text=True)
    assert "Permission denied; choose one with --data" in done.stderr


HOLDER = """
import os, subprocess, sys
from pathlib import Path
from jiffy.home import Home
one = Home(Path(sys.argv[1]), print)
subprocess.Popen(["/bin/sh", "-c", "read line"], pass_fds=[one.lock_fd])
print("held", flush=True)
os.kill(os.getpid(), 9)
"""


def test_processes_that_a_killed_supervisor_left_are_waited_for(tmp_path: Path) -> None:
    """They hold the lock until they have cleaned up: a second queue must not open the same files."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    holder.wait()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        assert holder.stdin is not None
        holder.stdin.close()  # lets what is left end, now that somebody waits for it

    Home(tmp_path, say).close()
    assert said == ["waiting for the processes of an earlier `jiffy up` to end"]
    holder.stdout.close()


def test_where_data_goes_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert home.default() == Path("/somewhere/jiffy")
    monkeypatch.setenv("XDG_DATA_HOME", "relative is to be ignored")
    monkeypatch.setenv("HOME", "/home/ada")
    assert home.default() == Path("/home/ada/.local/share/jiffy")
