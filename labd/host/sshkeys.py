"""SSH key pairs of labs (`core.ports.LabKeys`), ed25519 as OpenSSH has them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from labd.host.threads import in_thread, quick
from labd.model.access import KeyPair
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


_FILE = "id_ed25519"
_DRAFT = ".new-"


class SshKeys:
    """A folder with a folder per lab key; each is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ensure(self, lab_key: str) -> KeyPair:
        """Return the key pair of a lab; it is made at the first time."""
        found = await self.read(lab_key)
        if found is not None:
            return found
        draft = self._folder / f"{_DRAFT}{lab_key}"
        # The comment is what `authorized_keys` in a guest shows.
        made = generate(f"labd-{lab_key}")

        def write() -> None:
            try:
                _make_empty(draft)
                _write(draft / _FILE, made.private, 0o600)
                _write((draft / _FILE).with_suffix(".pub"), f"{made.public}\n", 0o644)
                draft.rename(self._folder / lab_key)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

        await in_thread(write)
        return made

    async def read(self, lab_key: str) -> KeyPair | None:
        """Return the key pair of a lab, None when it has none."""

        def read() -> KeyPair | None:
            path = self._folder / lab_key / _FILE
            try:
                return KeyPair(
                    public=path.with_suffix(".pub").read_text().strip(), private=path.read_text()
                )
            except FileNotFoundError:
                return None

        return await quick(read)

    async def remove(self, lab_key: str) -> None:
        """Delete it."""
        await quick(shutil.rmtree, self._folder / lab_key, ignore_errors=True)

    async def all(self) -> Sequence[str]:
        """Return the lab keys that have a key pair, and what was left half made."""

        def names() -> list[str]:
            return sorted(os.listdir(self._folder)) if self._folder.is_dir() else []

        return await quick(names)


def generate(comment: str) -> KeyPair:
    """Return a new ed25519 key pair; takes less than a millisecond.

    Args:
        comment: What stands behind the public key, in one word.
    """
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return KeyPair(public=f"{public.decode()} {comment}", private=private.decode())


def _write(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "w") as file:
        file.write(text)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
