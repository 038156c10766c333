"""A secret in a file of labd's own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from labd.model.errors import StorageFailed

_LENGTH = 32  # bytes


def secret_of(path: Path) -> bytes:
    """Return the secret of a file (mode 0600); it is made at the first time, whole or not at all.

    Raises:
        StorageFailed: It can be neither read nor made.
    """
    try:
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            found = b""
        if len(found) == _LENGTH:
            return found
        made = secrets.token_bytes(_LENGTH)
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise StorageFailed(f"{path} can be neither read nor made: {error.strerror}") from error
    return made
