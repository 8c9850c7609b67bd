"""What holds a program back in a container until the invoker is ready for it: 300 bytes of machine code.

An engine starts a container and its process in one step, and the process must find the Runtime API when it starts. So
the engine starts this, from the folder that would hold an agent's socket; it waits until somebody opens the other end
of a pipe, gives its output to another pipe, and becomes the program that it was told. In C:

    close(open("/run/jiffy/go", O_RDONLY));
    fd = open("/run/jiffy/out", O_WRONLY); dup2(fd, 1); dup2(fd, 2); close(fd);
    execve(argv[1], argv + 1, environ); _exit(127);
"""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

NAME, GO, OUT = "start", "go", "out"  # in layout.SOCKET_DIR
_PATHS = b"/run/jiffy/go\0/run/jiffy/out\0"
_CODE = {  # machine: (its number in ELF, the code, which _PATHS follow)
    "x86_64": (
        62,
        "488d3d7a00000031f6b8020000000f0585c0786189c7b8030000000f05488d3d6b000000be010000"
        "00b8020000000f0585c0784189c389dfbe01000000b8210000000f0589dfbe02000000b821000000"
        "0f0589dfb8030000000f05488b0c24488b7c2410488d742410488d54cc10b83b0000000f05bf7f00"
        "0000b83c0000000f05",
    ),
    "aarch64": (
        183,
        "600c809261040010020080d2080780d2010000d48003f837280780d2010000d4600c8092c1030050"
        "220080d2080780d2010000d48002f837f303002a210080d2020080d2080380d2010000d4e003132a"
        "410080d2020080d2080380d2010000d4e003132a280780d2010000d4e30340f9e00b40f9e1430091"
        "220c038ba81b80d2010000d4e00f80d2a80b80d2010000d4",
    ),
}
_HEADERS, _AT = 64 + 56, 0x400000


def executable(machine: str = "") -> bytes:
    """The gate as an ELF file. Raises KeyError for a machine that there is no code for."""
    number, code = _CODE[machine or platform.machine()]
    text = bytes.fromhex(code) + _PATHS
    size = _HEADERS + len(text)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _AT + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, _AT, _AT, size, size, 0x1000)
    return head + text


def prepare(folder: Path) -> None:
    """Put the gate and its pipes into a sandbox's folder. Raises KeyError or OSError."""
    (folder / NAME).write_bytes(executable())
    (folder / NAME).chmod(0o755)
    for name, mode in ((GO, 0o444), (OUT, 0o622)):
        os.mkfifo(folder / name)
        (folder / name).chmod(mode)


def pass_through(folder: Path) -> tuple[int, int]:
    """Let the program begin: a descriptor to keep until it has begun, and one to read what it prints from."""
    out = os.open(folder / OUT, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # a reader that waits for its first writer
    try:
        return os.open(folder / GO, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), out
    except OSError:
        os.close(out)
        raise
