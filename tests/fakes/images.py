"""An image store in memory, with the same contract as the real one (test_images.py).

The bytes of an image are kept in a dict. `web` plays the network: what a URL has, or the error it
ends with.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from labd.images import headers
from labd.model.errors import (
    DownloadFailed,
    ImageRefused,
    InputError,
    LabdError,
)
from labd.model.images import Image, ImageFormat
from labd.model.names import check_name

TINY = b"a kernel" + b"an initramfs"


class FakeImages:
    """Implements the port `Images`.

    Attributes:
        web: URL -> bytes, or the error that its download ends with.
        contents: Hex digest -> bytes, what the store holds.
    """

    def __init__(self, root: Path) -> None:
        self.web: dict[str, bytes | LabdError] = {}
        self.contents: dict[str, bytes] = {}
        self._root = root

    async def receive(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str = "",
        source: str = "",
        kernel_size: int | None = None,
        cmdline: str = "",
    ) -> Image:
        """Keep the bytes, once the real checks of headers have passed."""
        check_name(name, "image")
        data = b"".join([chunk async for chunk in chunks])
        digest = hashlib.sha256(data).hexdigest()
        if sha256.lower() not in ("", digest):
            raise ImageRefused(f"the digest is sha256:{digest}, not sha256:{sha256} as asked for")
        cut = len(data) if kernel_size is None else kernel_size
        judged = data[:cut] if format is ImageFormat.KERNEL else data
        facts = headers.inspect(judged[: headers.HEAD_SIZE], len(judged), format)
        files: tuple[str, ...] = ("disk",)
        if format is ImageFormat.KERNEL:
            files = ("kernel", "initrd") if cut < len(data) else ("kernel",)
        self.contents[digest] = data
        return Image(
            name=name,
            format=facts.format,
            digest=f"sha256:{digest}",
            size=len(data),
            virtual_size=facts.virtual_size,
            files=files,
            cmdline=cmdline,
            source=source,
            created="2024-01-01T00:00:00Z",
        )

    async def download(
        self,
        name: str,
        url: str,
        *,
        format: ImageFormat | None,
        sha256: str = "",
        progress: Callable[[int, int | None], None],
    ) -> Image:
        """Take what `web` has."""
        found = self.web.get(url, DownloadFailed(f"cannot fetch {url}: the server said 404"))
        if isinstance(found, LabdError):
            raise found
        progress(len(found), len(found))

        async def chunks() -> AsyncIterator[bytes]:
            yield found

        return await self.receive(name, chunks(), format=format, sha256=sha256, source=url)

    async def build(self, recipe: str, name: str, progress: Callable[[str], None]) -> Image:
        """Make something that looks like the tiny image."""
        if recipe != "tiny":
            raise InputError(f"there is no image recipe {recipe!r}; known: tiny")
        check_name(name, "image")
        progress("tiny: built")
        digest = hashlib.sha256(TINY).hexdigest()
        self.contents[digest] = TINY
        return Image(
            name=name,
            format=ImageFormat.KERNEL,
            digest=f"sha256:{digest}",
            size=len(TINY),
            files=("kernel", "initrd"),
            cmdline="console=ttyS0",
            ready_pattern=r"^labd: ready ",
            agent=True,
            created="2024-01-01T00:00:00Z",
        )

    async def discard(self, image: Image) -> None:
        """Forget the bytes."""
        self.contents.pop(image.digest.removeprefix("sha256:"), None)

    def files(self, image: Image) -> Mapping[str, Path]:
        """Return paths at which nothing is."""
        folder = self._root / image.digest.removeprefix("sha256:")
        return {part: folder / part for part in image.files}

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Forget every digest that is not kept."""
        kept = frozenset(keep)
        gone = sorted(f"sha256:{key}" for key in self.contents if f"sha256:{key}" not in kept)
        for digest in gone:
            del self.contents[digest.removeprefix("sha256:")]
        return gone
