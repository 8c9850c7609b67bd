"""A nursery: an agent that has started and gives birth to stems, one fork each, instead of waiting to be one itself.

bubblewrap started it, as the root of a user namespace that has rights over nothing of the host. Each child makes
the walls that bubblewrap would have made around it (invoker/drivers/bwrap.py lists them), gives up every right, and
goes on as a stem that has just been started. No code of a user's ever runs here. It lies in the image as
/var/runtime/jiffy_nursery.py; who asks it for stems is invoker/drivers/nursery.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_MAX = 65536
DESCRIPTORS_MAX = 16
STAGE = "/run/jiffy"  # here: the invoker's folders of all sandboxes, and what is mounted in them
ROOT = "/tmp"  # here: where a child puts its root together
SHM = "/dev/shm"
NEW_NS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_RELATIME, ST_RELATIME, MNT_DETACH = 1 << 21, 4096, 2
KEPT = 2 | 4 | 8 | 1024 | 2048  # mount flags that are the same numbers in statvfs
DUMPABLE, SECCOMP, CAPBSET_DROP, NO_NEW_PRIVS, AMBIENT = 4, 22, 24, 38, 47  # options of prctl
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)
_ulong = ctypes.c_ulong


def beget(fd: int) -> None:
    """Bear a child for each request that comes on the socket `fd`. Returns in each child, with its listener's number
    in the environment; the process itself ends when the socket has been closed and its last child is gone.
    """
    control = socket.socket(fileno=fd)
    walls = json.loads(control.recv(MESSAGE_MAX))
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.umount2(b"/dev/pts", MNT_DETACH), "umount /dev/pts")  # each child has its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are buried by the kernel
    control.send(b"ready")
    while True:
        data, fds, _, _ = socket.recv_fds(control, MESSAGE_MAX, DESCRIPTORS_MAX)
        if not data:
            break
        pid = -1
        try:
            _check(_libc.unshare(NEW_PID), "unshare")  # for the next child, which is process 1 in there
            pid = os.fork()
        except OSError as exc:  # no more processes or namespaces just now; those that live would end with this one
            os.write(fds[1], f"{exc}\n".encode())
        if pid == 0:
            control.close()
            try:
                _born(json.loads(data), walls, fds)
            except BaseException as exc:
                os.write(fds[1], f"{type(exc).__name__}: {exc}\n".encode())
                os._exit(1)
            return
        _check(_libc.setns(ours, NEW_PID), "setns")
        for one in fds:
            os.close(one)
    try:
        os.wait()  # for all of them: nobody is told of one that is ignored
    except ChildProcessError:
        pass
    os._exit(0)


def _born(birth: dict[str, Any], walls: dict[str, Any], fds: list[int]) -> None:
    """Become a stem of one's own. The descriptors: a listener, a file for errors, the midwife, control groups."""
    listener, errors, cord, *groups = fds
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in groups:
        os.write(fd, b"0")
    midwife = socket.socket(fileno=cord)
    midwife.send(b"here")  # the kernel adds who sent it
    if midwife.recv(16) != b"go":
        os._exit(1)
    _check(_libc.unshare(NEW_NS | NEW_CGROUP | NEW_UTS | NEW_IPC | NEW_NET), "unshare")
    _check(_libc.sethostname(b"function", 8), "sethostname")
    _loopback()
    _furnish(f"{STAGE}/{birth['id']}", walls)
    _strip(birth["uid"], walls)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    midwife.send(b"up")
    midwife.detach()
    for fd in map(int, os.listdir("/proc/self/fd")):  # whatever their numbers: bubblewrap's have those of the invoker
        if fd > 2 and fd != listener:
            os.closerange(fd, fd + 1)  # the one of the folder itself is closed already
    os.environ["JIFFY_LISTEN_FD"] = str(listener)


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _check(_libc.ioctl(sock.fileno(), _ulong(SIOCSIFFLAGS), struct.pack("16sH22x", b"lo", IFF_UP)), "lo")


def _furnish(folder: str, walls: dict[str, Any]) -> None:
    """The file system: nothing of it can be written but scratch, nothing of others can be seen."""
    _mount("/", ROOT, None, MS_BIND)
    _seal(ROOT)
    _mount("proc", f"{ROOT}/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV)
    _mount("/dev", f"{ROOT}/dev", None, MS_BIND | MS_REC)
    _mount("devpts", f"{ROOT}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    memory = f"mode=1777,nr_inodes={walls['inodes']},size="
    _mount("tmpfs", f"{ROOT}{SHM}", "tmpfs", MS_NOSUID | MS_NODEV, f"{memory}{walls['shm_bytes']}")
    for name, inside in walls["folders"].items():
        _mount(f"{folder}/{name}", ROOT + inside, None, MS_BIND | MS_REC)
        _seal(ROOT + inside)
    for path in walls["masked_files"]:
        _mount("/dev/null", ROOT + path, None, MS_BIND)
        _seal(ROOT + path)
    for path in walls["masked_folders"]:
        _mount("tmpfs", ROOT + path, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY)
    _mount("tmpfs", f"{ROOT}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"{memory}{walls['scratch_bytes']}")
    os.chdir(ROOT)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def _strip(uid: int, walls: dict[str, Any]) -> None:
    """Be nobody, in a user namespace of one's own, without any right, behind the filter of system calls."""
    if uid:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(_libc.prctl(DUMPABLE, _ulong(1), 0, 0, 0), "prctl")  # until the maps are written; the agent takes it back
    _check(_libc.unshare(NEW_USER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{walls['uid']} {uid} 1"),
        ("gid_map", f"{walls['gid']} {uid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    number = 0
    while _libc.prctl(CAPBSET_DROP, _ulong(number), 0, 0, 0) == 0:
        number += 1
    if number < 32:  # more than the oldest kernels know
        raise OSError(f"capability {number} can't be dropped")
    _check(_libc.prctl(AMBIENT, _ulong(4), 0, 0, 0), "prctl")  # clear all
    _check(_libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)), "capset")
    _check(_libc.prctl(NO_NEW_PRIVS, _ulong(1), _ulong(0), _ulong(0), _ulong(0)), "prctl")
    code = bytes.fromhex(walls["filter"])
    program = ctypes.create_string_buffer(code, len(code))
    said = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    _check(_libc.prctl(SECCOMP, _ulong(2), said, 0, 0), "seccomp")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind and kind.encode(), _ulong(flags), options and options.encode()
    )
    _check(result, f"mount of {target}")


def _seal(target: str) -> None:
    """Make a bound mount read-only, and keep what else it may not: its flags may be locked."""
    found = os.statvfs(target).f_flag
    kept = found & KEPT | (MS_RELATIME if found & ST_RELATIME else 0)
    _mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
