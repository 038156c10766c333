"""What a machine says on its serial line while no labd listens.

A guest may say that it is ready in the second in which labd is killed or replaced. So QEMU writes
all output, besides into its socket, into a small piece of memory that it shares with labd
(`logfile=` of the chardev): a memfd that outlives labd with QEMU, and that cannot grow. While labd
listens, it winds the place at which QEMU writes back whenever half is full, and notes how much of
what stands there it has read by the socket. The next labd finds what it has not.

    offset 0    8 bytes, big endian: bytes since the start of the text that labd has read
    offset 16   the text, up to the place of QEMU's descriptor

The descriptor's place is shared by labd and QEMU because QEMU got a copy of labd's (`-add-fd`).
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import re
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from labd.host.libc import LIBC, why

log = logging.getLogger(__name__)

SIZE: Final = 64 << 10  # bytes
_TEXT = 16
_PAGE = 4096  # bytes; no write of QEMU's is longer
_LOOKS = 8  # at a guest that speaks all the time
_COUNT = struct.Struct(">q")
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_SYS_PIDFD_GETFD = 438  # the same on every architecture
_LINK = re.compile(r"\A/memfd:labd-[a-z0-9-]+-serial(?: \(deleted\))?\Z")


def open_for(key: str, stack: ExitStack) -> int:
    """Return the descriptor that a machine shall write into; `stack` closes it."""
    memory = os.memfd_create(f"labd-{key}-serial", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Write-only, as QEMU looks for it in the set of descriptors.
        fd = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)
    stack.callback(os.close, fd)
    return fd


class ConsoleBacklog:
    """The memory of one machine's serial line."""

    def __init__(self, written: int) -> None:
        """Take a descriptor from `open_for` or of a QEMU; it is closed by `close`."""
        self._written = written
        self._memory = os.open(f"/proc/self/fd/{written}", os.O_RDWR | os.O_CLOEXEC)
        self._read = 0

    def begin(self) -> None:
        """Make it ready, once QEMU is up: opening it has emptied it. Nothing was said yet."""
        os.ftruncate(self._memory, SIZE)
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(self._written, _TEXT, os.SEEK_SET)

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Find that of a QEMU which an earlier labd has started; None when it has none.

        None as well where the kernel does not hand out descriptors (pidfd_getfd(2), Linux 5.6).
        """
        try:
            number = next(
                int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir() if _is_it(entry)
            )
            pidfd = os.pidfd_open(pid)
        except (OSError, StopIteration):
            return None
        try:
            fd = int(LIBC.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), pidfd, number, 0))
        finally:
            os.close(pidfd)
        if fd < 0:
            log.warning("what process %d said meanwhile is lost: %s", pid, why()[1])
            return None
        os.set_inheritable(fd, False)
        try:
            found = cls(fd)
        except OSError as error:
            os.close(fd)
            log.warning("what process %d said meanwhile is lost: %s", pid, error)
            return None
        count = os.pread(found._memory, _COUNT.size, 0)
        if len(count) < _COUNT.size:  # it is another one, which somebody inside of QEMU has made
            found.close()
            return None
        found._read = _COUNT.unpack(count)[0]
        return found

    def heard(self, size: int) -> None:
        """Note that so many bytes more were read by the socket."""
        self._read += size
        self._note()

    def take(self, waiting: Callable[[], int]) -> bytes:
        """Return what was never read, and take it as read.

        Args:
            waiting: Tells how many bytes stand in the socket, and will be read by it.
        """
        end, in_socket = 0, -1
        for _ in range(_LOOKS):
            before, in_socket = in_socket, waiting()
            if before == in_socket:  # nothing was said between two looks
                break
            # The place is QEMU's, too, which may be a guest's by now.
            end = min(SIZE, os.lseek(self._written, 0, os.SEEK_CUR) - in_socket)
        start = max(_TEXT, _TEXT + self._read)
        text = os.pread(self._memory, end - start, start) if end > start else b""
        self._read = end - _TEXT
        self._note()
        return text

    def close(self) -> None:
        """Let go of the descriptors (idempotent); QEMU keeps its own."""
        for name in ("_written", "_memory"):
            if (fd := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def _wind_back(self) -> None:
        place = os.lseek(self._written, 0, os.SEEK_CUR)
        os.lseek(self._written, _TEXT, os.SEEK_SET)
        # What stands in the socket still was written before; near the end, writes have failed.
        self._read = self._read - (place - _TEXT) if place < SIZE - _PAGE else 0

    def _note(self) -> None:
        if self._read > SIZE // 2:
            self._wind_back()
        with suppress(OSError):
            os.pwrite(self._memory, _COUNT.pack(self._read), 0)


def _is_it(entry: Path) -> bool:
    with suppress(OSError):
        return _LINK.match(os.readlink(entry)) is not None
    return False
