"""The CD by which cloud-init learns what its machine is: ISO 9660 with the label `cidata`.

The same files make the same bytes: a CD does not say when it was made.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pycdlib import PyCdlib

from labd.images.intake import as_storage_failed
from labd.model.cloudinit import SEED_LABEL

_SECTOR: Final = 2048
_FIRST_DESCRIPTOR: Final = 16 * _SECTOR
_WITH_ROOT: Final = {1, 2}  # primary and supplementary descriptors (ECMA-119, 8.1.1)
_LAST: Final = 255
_ROOT, _DATES = 156, slice(813, 881)  # of a descriptor (8.4)
_NO_DATE: Final = (b"0" * 16 + b"\0") * 4  # "not specified" (8.4.26.1)
_RECORD_DATE = slice(18, 25)  # of a directory record (9.1)
_EPOCH: Final = bytes((80, 1, 1, 0, 0, 0, 0))


def iso(files: Mapping[str, bytes]) -> bytes:
    """Return a CD with these files at its top, under these names by Joliet."""
    disc = PyCdlib()
    disc.new(interchange_level=3, vol_ident=SEED_LABEL, joliet=3)
    for number, (name, content) in enumerate(sorted(files.items())):
        path = f"/FILE{number}.;1"
        disc.add_fp(io.BytesIO(content), len(content), path, joliet_path=f"/{name}")
    out = io.BytesIO()
    disc.write_fp(out)
    disc.close()
    return _without_times(bytearray(out.getvalue()))


def _without_times(disc: bytearray) -> bytes:
    at = _FIRST_DESCRIPTOR
    while disc[at] != _LAST:
        if disc[at] in _WITH_ROOT:
            disc[at + _DATES.start : at + _DATES.stop] = _NO_DATE
            for record in (at + _ROOT, *_records(disc, at + _ROOT)):
                disc[record + _RECORD_DATE.start : record + _RECORD_DATE.stop] = _EPOCH
        at += _SECTOR
    return bytes(disc)


def _records(disc: bytearray, root: int) -> Iterator[int]:
    """Yield where the records of a folder of one sector are, by where its own record is."""
    at = int.from_bytes(disc[root + 2 : root + 6], "little") * _SECTOR
    while disc[at]:
        yield at
        at += disc[at]


def write_seed(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a CD with these files at `path` (0600), instead of what is there.

    Raises:
        StorageFailed: No space; what was there before stays.
    """
    content = iso(files)
    fresh = path.with_name(f".{path.name}")
    # A QEMU that was broken out of could have put a link into its folder.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with as_storage_failed(f"make disk {path.name}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        try:
            with open(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(content)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
