"""Archives that a guest made, which may be anything: only files and folders come out of them."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile

from labd.model import tars
from labd.model.errors import GuestFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


def unpack(file: BinaryIO, name: str, path: str) -> list[str]:
    """Unpack the folder `name` of an archive as `path`, which is not there yet, or nothing at all.

    Links, devices, pipes and sparse files are left out and returned. What the archive says of
    owners and of set-user-id bits is not obeyed, and no member can name a place outside of the
    folder.

    Raises:
        GuestFailed: It is no such archive.
        OSError: A file can't be written.
    """
    staging = tempfile.mkdtemp(prefix=".labd-cp-", dir=os.path.dirname(os.path.abspath(path)))
    try:
        root = os.path.join(staging, "root")
        left = list(_unpack(file, name, root))
        if not os.path.isdir(root):
            raise GuestFailed(f"{name} is no folder in the guest; leave out -r")
        os.rename(root, path)
    except tarfile.TarError as error:
        raise GuestFailed(f"the guest sent an archive that is damaged: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return left


def _unpack(file: BinaryIO, name: str, root: str) -> Iterator[str]:
    umask = os.umask(0)
    os.umask(umask)
    with tars.reading(file) as archive:
        for member in archive:
            inside = _inside(member.name, name)
            target = os.path.join(root, *inside)
            if member.isdir():
                os.makedirs(target, exist_ok=True)
            elif tars.is_plain(member):
                if not inside:
                    continue  # a file of that name; there is no folder then
                os.makedirs(os.path.dirname(target), exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None  # noqa: S101 - it is a regular file
                with content, open(target, "wb") as out:
                    shutil.copyfileobj(content, out)
                    os.fchmod(out.fileno(), (0o755 if member.mode & 0o111 else 0o644) & ~umask)
            else:
                yield "/".join((name, *inside))


def _inside(text: str, name: str) -> list[str]:
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts or not parts or parts[0] != name or "\0" in text:
        raise GuestFailed(f"the guest sent an archive with the name {text[:80]!r} in it: refused")
    return parts[1:]
