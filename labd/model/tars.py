"""Reading tar archives that anybody may have made.

`tarfile` reads the headers of extensions whole into memory, follows a chain of them by recursion,
invents as many zeros as a sparse member claims, and raises what its parser happens to raise.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

LARGEST_READ: Final = 16 << 20
"""Bytes that are read at one time: a manifest, or a header's extension."""


class Measured:
    """A file from which nobody reads more than `LARGEST_READ` bytes at one time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes.

        Raises:
            tarfile.ReadError: That would be too many.
        """
        if not 0 <= size <= LARGEST_READ:
            raise tarfile.ReadError(f"a header in it claims {size} bytes")
        return self._file.read(size)


@contextmanager
def reading(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    """Open an archive; whatever is wrong with it is told as TarError, in the block too.

    Raises:
        tarfile.TarError: It is no archive, or damaged.
    """
    try:
        with tarfile.open(fileobj=Measured(file), mode="r:") as archive:  # type: ignore[call-overload]
            yield archive
    except (RecursionError, OverflowError, ValueError) as error:
        raise tarfile.ReadError(f"its headers make no sense ({type(error).__name__})") from error


def is_plain(member: tarfile.TarInfo) -> bool:
    """True if a member is a file whose bytes are all there."""
    return member.isreg() and not member.issparse()
