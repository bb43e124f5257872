"""A filter on system calls: no sockets, no programs, nothing done to other processes. Linux, no root.

Namespaces are mostly closed to processes in containers, and Landlock knows the network from Linux 6.7
on; a filter is there on every kernel since 3.17 and in every container.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1

# Instructions of the filter: load a word, compare and jump, return.
_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

# Where the kernel puts what is asked for, and what can be said to it.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16
"""Its lower half, which is all that the kernel looks at in the number of a process."""
_ALLOW: Final = 0x7FFF_0000
_KILL: Final = 0x8000_0000
_REFUSE: Final = 0x0005_0000 | errno.EPERM

_X32: Final = 0x4000_0000
"""From here on x86-64 has its calls a second time, for an interface of its own."""


class _Machine(NamedTuple):
    """What the calls are called on an architecture."""

    architecture: int
    seccomp: int
    refused: Sequence[int]
    to_itself: Sequence[int]
    """Calls whose first argument must be this process; a thread is only named beside its process."""
    limits: int
    """prlimit64, for which 0 is this process too."""


_EVERYWHERE: Final = (
    *(425, 426, 427),  # io_uring_setup, io_uring_enter, io_uring_register: sockets by another door.
    *(424, 434, 438),  # pidfd_send_signal, pidfd_open, pidfd_getfd
)
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000_003E,
        317,
        (
            *(
                41,
                42,
                43,
                49,
                50,
                53,
                288,
            ),  # socket, connect, accept, bind, listen, socketpair, accept4
            *(59, 322),  # execve, execveat
            *(101, 310, 311),  # ptrace, process_vm_readv, process_vm_writev
            *(165, 272, 308),  # mount, unshare, setns
            *(248, 249, 250),  # add_key, request_key, keyctl
            *(298, 321, 323),  # perf_event_open, bpf, userfaultfd
            *_EVERYWHERE,
        ),
        # kill, tkill (the main thread alone), tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
        (62, 200, 234, 129, 297),
        302,
    ),
    "aarch64": _Machine(
        0xC000_00B7,
        277,
        (
            *(
                198,
                199,
                200,
                201,
                202,
                203,
                242,
            ),  # socket, socketpair, bind, listen, accept, connect, accept4
            *(221, 281),  # execve, execveat
            *(117, 270, 271),  # ptrace, process_vm_readv, process_vm_writev
            *(40, 97, 268),  # mount, unshare, setns
            *(217, 218, 219),  # add_key, request_key, keyctl
            *(241, 280, 282),  # perf_event_open, bpf, userfaultfd
            *_EVERYWHERE,
        ),
        (129, 130, 131, 138, 240),
        261,
    ),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(library: ctypes.CDLL) -> bool:
    """Have the kernel refuse these calls to all threads of this process, for good; say whether it does."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    instructions = _instructions(machine, os.getpid())
    program = _Program(len(instructions) // 8, instructions)
    found = library.syscall(machine.seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program))
    return bool(found == 0)


def _instructions(machine: _Machine, process: int) -> bytes:
    """Return the filter: another architecture ends the process, a refused call fails with EPERM."""
    checks = [(_IF_AT_LEAST, _X32), *((_IF_EQUAL, number) for number in machine.refused)]
    made = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, machine.architecture, then=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for number in machine.to_itself:
        made += _only_for(number, process)
    made += _only_for(machine.limits, process, 0)
    for at, (kind, number) in enumerate(checks):
        # Behind the checks that follow and the one that allows lies what refuses.
        made.append(_instruction(kind, number, then=len(checks) - at))
    return b"".join([*made, _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)])


def _only_for(number: int, *processes: int) -> list[bytes]:
    """Return what decides on a call by its first argument; other calls pass on to what follows."""
    allow = [
        _instruction(_IF_EQUAL, process, then=len(processes) - at)
        for at, process in enumerate(processes)
    ]
    block = [
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *allow,
        _instruction(_RETURN, _REFUSE),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_IF_EQUAL, number, otherwise=len(block)), *block]


def _instruction(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)
