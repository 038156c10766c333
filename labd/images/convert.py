"""Disks of other makers become qcow2, by a qemu-img that can open nothing but the two files.

It has a user of its own (one conversion at a time, so that no two share it), no capability, an
empty network namespace, limits on memory, CPU, file size and descriptors, and Landlock: whatever a
header makes it open beside the file it was given, the kernel refuses. What it writes is not
trusted either: the caller looks at the header of the outcome as if somebody had sent it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from labd.host.commands import run
from labd.host.jail import LOOKED_AT, PROGRAMS, WRITTEN_TO, Jail, Limits
from labd.host.landlock import Files
from labd.host.threads import quick
from labd.images.foreign import NAMES, Foreign
from labd.images.intake import RESERVE
from labd.model.errors import CommandFailed, ImageRefused, StorageFailed

MEMORY: Final = 1 << 30
"""Bytes of address space that a conversion may have; qemu-img with its libraries takes a third."""

# By default glibc sets 64 MiB of addresses aside for each arena, and has up to eight a CPU
# (mallopt(3)): how many qemu-img's threads take, and so whether it keeps to its bound, is chance.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
_OPEN_FILES = 64
_SLOWEST = 16 << 20  # bytes a second of CPU time
_PATIENCE = 300  # seconds, and what is above it by size
_OPENING = re.compile(r"^qemu-img: (?:Could not open '[^']*': )?")
_SAID = 200  # characters of qemu-img's last words


class Converter:
    """Converts one disk at a time.

    Args:
        uid: Its user, and group, which nothing else has.
    """

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._lock = asyncio.Lock()

    async def convert(self, kind: Foreign, source: Path, target: Path, limit: int | None) -> None:
        """Make a qcow2 file of a disk.

        Args:
            kind: What it is; never probed.
            source: The disk; its mode is set to 0444.
            target: Is made. Left to the caller when this fails.
            limit: Bytes that the outcome may have; None: as much as there is room.

        Raises:
            ImageRefused: qemu-img can't, or would take more than it may.
            CommandFailed: It can't be started.
            StorageFailed: No room.
        """
        async with self._lock:
            with ExitStack() as stack:
                given, made = await quick(self._open, source, target, stack)
                await self._run(kind, given, made, _room(target, limit))
                os.fchown(made, 0, 0)

    def _open(self, source: Path, target: Path, stack: ExitStack) -> tuple[int, int]:
        try:
            given = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, given)
            os.fchmod(given, 0o444)
            made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, made)
            os.fchown(made, self._uid, self._uid)
        except OSError as error:
            raise StorageFailed(f"cannot convert {source.name}: {error.strerror}") from error
        return given, made

    async def _run(self, kind: Foreign, given: int, made: int, room: int) -> None:
        seconds = _PATIENCE + os.fstat(given).st_size // _SLOWEST
        try:
            await run(
                command(kind, given, made),
                timeout=4.0 * seconds,
                max_output=1 << 20,
                env=_ENVIRONMENT,
                pass_fds=[given, made],
                jail=jail(self._uid, given, made, seconds, room),
            )
        except CommandFailed as error:
            status = error.details.get("status")
            if status == -signal.SIGXFSZ or _said(error).endswith(os.strerror(errno.EFBIG)):
                raise StorageFailed(
                    f"the {NAMES[kind]} disk would have more than the {room} bytes that are free "
                    "for it as qcow2; make room, or import a smaller one"
                ) from error
            if status is None:  # not started, or killed for its time or its output
                raise
            raise ImageRefused(
                f"the {NAMES[kind]} disk cannot be converted: {_said(error)}; check the file with "
                "qemu-img check where it was made"
            ) from error


def command(kind: Foreign, given: int, made: int) -> list[str]:
    """Return qemu-img's argv: a fixed text but for two numbers. Pure."""
    source = f"driver={kind},file.driver=file,file.filename=/proc/self/fd/{given}"
    return [
        *("qemu-img", "convert", "-q", "--image-opts", source),
        *("-O", "qcow2", f"/proc/self/fd/{made}"),
    ]


def jail(uid: int, given: int, made: int, seconds: int, room: int) -> Jail:
    """Return what qemu-img runs in. Pure.

    Args:
        uid: Its user, and group.
        given: Descriptor of the file that it reads.
        made: Descriptor of the file that it fills.
        seconds: Of CPU time.
        room: Bytes that the outcome may have.
    """
    return Jail(
        uid=uid,
        gid=uid,
        pdeathsig="KILL",
        files=Files(
            run=PROGRAMS, read=LOOKED_AT, write=WRITTEN_TO, opened=(given,), filled=(made,)
        ),
        limits=Limits(memory=MEMORY, cpu=seconds, file_size=room, open_files=_OPEN_FILES),
    )


def _room(target: Path, limit: int | None) -> int:
    free = shutil.disk_usage(target.parent).free - RESERVE
    if free <= 0:
        raise StorageFailed("no room to convert the image; delete images or make room")
    return free if limit is None else min(free, limit)


def _said(error: CommandFailed) -> str:
    """Return qemu-img's last words, which may quote the file, as one harmless line."""
    lines = str(error.details.get("stderr", "")).strip().splitlines() or [error.message]
    text = _OPENING.sub("", lines[-1])
    return "".join(c if c.isprintable() else "?" for c in text)[:_SAID]
