"""SSH key pairs of labs (`engine.ports_ways.LabKeys`), made by ssh-keygen(1)."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from labd.host.spawn import run
from labd.model.access import KeyPair

_FILE = "id_ed25519"
_DRAFT = ".new-"
_TIMEOUT = 20.0  # seconds; it takes some milliseconds


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
        await asyncio.to_thread(_make_empty, draft)
        try:
            # The comment is what `authorized_keys` in a guest shows.
            words = ["-q", "-t", "ed25519", "-N", "", "-C", f"labd-{lab_key}"]
            await run(["ssh-keygen", *words, "-f", str(draft / _FILE)], timeout=_TIMEOUT)
            await asyncio.to_thread(os.rename, draft, self._folder / lab_key)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
            raise
        made = await self.read(lab_key)
        assert made is not None  # noqa: S101 - it was renamed into place above
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

        return await asyncio.to_thread(read)

    async def remove(self, lab_key: str) -> None:
        """Delete it."""
        await asyncio.to_thread(shutil.rmtree, self._folder / lab_key, ignore_errors=True)

    async def all(self) -> Sequence[str]:
        """Return the lab keys that have a key pair, and what was left half made."""

        def names() -> list[str]:
            return sorted(os.listdir(self._folder)) if self._folder.is_dir() else []

        return await asyncio.to_thread(names)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
