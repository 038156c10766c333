"""The C library, for system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # sched.h
# sys/mount.h
MS_NOSUID, MS_NOEXEC, MS_REMOUNT, MS_BIND = 2, 8, 32, 1 << 12
MS_REC, MS_SLAVE, MS_SHARED = 1 << 14, 1 << 19, 1 << 20
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def mount(source: Path | None, target: Path, flags: int) -> int:
    """Bind a folder or file, or change a mount (mount(2)); return 0, or -1: see `why`."""
    what = None if source is None else os.fsencode(source)
    return int(LIBC.mount(what, os.fsencode(target), None, ctypes.c_ulong(flags), None))


def why() -> tuple[int, str]:
    """Return number and text of the error of this thread's last call that failed."""
    number = ctypes.get_errno()
    return number, os.strerror(number)
