"""Opening files that a guest may have had a hand in."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from labd.model.errors import LaunchFailed


def open_file(path: Path, *, writable: bool) -> int:
    """Open a plain file for QEMU, with suspicion; return the descriptor. Blocks: use a thread.

    Raises:
        LaunchFailed: It is missing, or is no plain file of its own.
    """
    # O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    flags = os.O_RDWR if writable else os.O_RDONLY
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        advice = "import the image again" if not writable else "is it there and a plain file?"
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            advice = "raise LimitNOFILE= of labd"
        raise LaunchFailed(f"cannot open {path}: {error.strerror}; {advice}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or (writable and status.st_nlink != 1):
        os.close(fd)
        raise LaunchFailed(f"{path} is not a plain file of its own: destroy the lab and start anew")
    os.set_blocking(fd, True)
    return fd
