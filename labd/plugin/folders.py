"""A folder by descriptor, for a process whose user cannot pass through what is above the folder.

A plain descriptor of a folder would also be a way out of it, by `..`, into all that a closed folder
above was meant to hide. So it is of a mount of its own that nobody else sees (open_tree(2)): there
`..` of the folder is the folder itself. The mount ends with the last descriptor of it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from labd.host.libc import LIBC, why

_OPEN_TREE = 428  # the number of the system call; asm-generic/unistd.h, since Linux 5.2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
_OPEN_TREE_CLONE = 1  # linux/mount.h; OPEN_TREE_CLOEXEC is O_CLOEXEC


def open_folder(path: Path) -> int:
    """Return a descriptor, closed on exec, through which the folder and what is below is reached.

    Raises:
        OSError: There is no such folder, or the caller has no CAP_SYS_ADMIN.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"there is no folder {path}")
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    fd: int = LIBC.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), ctypes.c_uint(flags))
    if fd < 0:
        number, text = why()
        raise OSError(number, f"open_tree: {text}", str(path))
    return fd
