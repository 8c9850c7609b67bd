"""The system calls that a bubblewrap sandbox may not make, as a classic BPF program (Docker brings its own profile).

A deny-list: what changes namespaces, mounts or the kernel, looks into other processes, or has been a way out before.
Unknown architectures are killed; x86-64's second numbering (x32) is refused whole. Source of the numbers: the kernel's
syscall tables; of the program's shape: seccomp(2). Capabilities are gone as well; this is the second wall.
"""

from __future__ import annotations

import errno
import platform
import struct

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets in struct seccomp_data (low halves: both machines are little-endian)
_X32 = 0x40000000
_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_FAMILIES = (
    1,
    2,
    10,
    16,
)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK; others (vsock!) are not bound to a network namespace
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into somebody's terminal
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # as Docker allows

# name: (x86-64, aarch64); -1 where there is none
_DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_mempolicy": (239, 236),
    "init_module": (175, 105),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, -1),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_ABSENT = {  # programs try these first, and do without when the kernel has none
    "clone3": (435, 435),  # its flags lie in memory, where a filter can't look
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
_FORKS = {"clone": (56, 220), "fork": (57, -1), "vfork": (58, -1)}  # threads are cloned, too
_CLONE, _PERSONALITY, _IOCTL, _SOCKET = (56, 220), (135, 92), (16, 29), (41, 198)
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def program(machine: str | None = None, *, forks: bool = True) -> bytes:
    """The filter for this machine (array of struct sock_filter). Raises KeyError for one that it does not know.

    `forks` False: what runs stays the one process and the one thread that it is.
    """
    arch, column = _MACHINES[machine or platform.machine()]
    code = [_op(_LOAD, _ARCH), _op(_JEQ, arch, 1, 0), _op(_RET, _KILL), _op(_LOAD, _NR)]
    if column == 0:
        code += [_op(_JGE, _X32, 0, 1), _op(_RET, _ERRNO | errno.ENOSYS)]
    for table, error in ((_DENIED, errno.EPERM), (_ABSENT, errno.ENOSYS), ({} if forks else _FORKS, errno.EPERM)):
        for numbers in table.values():
            if numbers[column] >= 0:
                code += [_op(_JEQ, numbers[column], 0, 1), _op(_RET, _ERRNO | error)]
    code += _when(_CLONE[column], [_op(_LOAD, _ARG0), _op(_JSET, _NAMESPACES, 0, 1), _op(_RET, _ERRNO | errno.EPERM)])
    code += _when(_IOCTL[column], [_op(_LOAD, _ARG1), *_refuse(_TERMINAL, errno.EPERM)])
    code += _when(_PERSONALITY[column], [_op(_LOAD, _ARG0), *_only(_PERSONALITIES, errno.EPERM)])
    code += _when(_SOCKET[column], [_op(_LOAD, _ARG0), *_only(_FAMILIES, errno.EAFNOSUPPORT)])
    return b"".join([*code, _op(_RET, _ALLOW)])


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """`body` for this system call, which then is allowed; others jump over it."""
    return [_op(_JEQ, number, 0, len(body) + 1), *body, _op(_RET, _ALLOW)]


def _refuse(values: tuple[int, ...], error: int) -> list[bytes]:
    return [op for value in values for op in (_op(_JEQ, value, 0, 1), _op(_RET, _ERRNO | error))]


def _only(values: tuple[int, ...], error: int) -> list[bytes]:
    allowed = [op for value in values for op in (_op(_JEQ, value, 0, 1), _op(_RET, _ALLOW))]
    return [*allowed, _op(_RET, _ERRNO | error)]
