"""Forbids a system call to this process and whatever it starts, as containers do.

    python syscall_filter.py NUMBER ERRNO COMMAND...     run a command that gets ERRNO for call NUMBER

A filter cannot be taken off again, so it belongs into a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

IO_URING_SETUP = 425  # The same on every architecture.
EPOLL_CREATE1 = {"x86_64": 291}.get(os.uname().machine, 20)

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
SECCOMP_MODE_FILTER = 2
RETURN_ALLOW, RETURN_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


class Instruction(ctypes.Structure):
    """`struct sock_filter`."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction)))


def forbid(number: int, errno: int) -> None:
    """From now on this thread, and all it starts, gets `errno` for system call `number`."""
    instructions = (Instruction * 4)(
        Instruction(LOAD_WORD, 0, 0, 0),  # the number of the call
        Instruction(JUMP_IF_EQUAL, 0, 1, number),
        Instruction(RETURN, 0, 0, RETURN_ERRNO | errno),
        Instruction(RETURN, 0, 0, RETURN_ALLOW),
    )
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arguments = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
    if prctl(PR_SET_NO_NEW_PRIVS, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    program = Program(len(instructions), instructions)
    if prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def run_without(
    number: int, errno: int, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to which a system call is forbidden."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZLOOP_")}
    return subprocess.run(
        [sys.executable, "-IS", __file__, str(number), str(errno), *command],
        capture_output=True,
        text=True,
        timeout=30,
        env={**clean, **environment},
    )


def missing() -> str | None:
    """Why no call can be forbidden here, if so."""
    if sys.platform != "linux":
        return f"seccomp is Linux's; this is {sys.platform}"
    tried = run_without(IO_URING_SETUP, 1, sys.executable, "-c", "")
    return tried.stderr.splitlines()[-1] if tried.returncode else None


if __name__ == "__main__":
    forbid(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
