"""Files that a verb writes for its user: whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import stat

from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

# What a process has open by these names is no file that another one can take the place of.
_OPEN = ("/dev/fd/", "/dev/std", "/proc/")


@contextlib.contextmanager
def writing(path: str, instead: str = "") -> Iterator[BinaryIO]:
    """Yield a file whose content is at `path` when the block has ended well.

    It is written beside the one that may be there and takes its place in one step (rename(2)), with
    its mode and, where that is allowed, its owner. When the block fails, nothing has changed.
    Devices, pipes and /dev/stdout are written as they are.

    Args:
        path: Of the file.
        instead: How the user chooses another one, for the message, such as `-o`.

    Raises:
        InputError: It cannot be written; says why.
    """
    with refusals(path, instead):
        if os.path.exists(path) and (
            not os.path.isfile(path) or os.path.abspath(path).startswith(_OPEN)
        ):
            with open(path, "wb") as file:
                yield file
        else:
            with _beside(path) as file:
                yield file


@contextlib.contextmanager
def refusals(path: str, instead: str = "") -> Iterator[None]:
    """Have it told in one line when `path` cannot be written.

    Raises:
        InputError: It cannot; `instead` is as in `writing`.
    """
    try:
        yield
    except OSError as error:
        hint = f"; choose another {instead}" if instead else ""
        raise InputError(f"cannot write {path}: {error.strerror or error}{hint}") from error


@contextlib.contextmanager
def _beside(path: str) -> Iterator[BinaryIO]:
    before = _look(path)
    place = path if before is None else os.path.realpath(path)  # a link stays a link
    draft = os.path.join(os.path.dirname(place), f".labd-{os.urandom(6).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    handle = os.open(draft, flags, 0o666 if before is None else 0o600)
    try:
        with open(handle, "wb") as file:
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode) & 0o777)
            yield file
        os.replace(draft, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _look(path: str) -> os.stat_result | None:
    """Return what is there, None for nothing.

    The kernel is asked as for a file that is written in place, so that it refuses what it would
    refuse there: files that are read-only, and others' files and links in folders such as /tmp
    (proc(5), fs.protected_regular and fs.protected_symlinks).
    """
    if not os.path.exists(path):
        return None
    there = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(there)
    finally:
        os.close(there)
