"""An image store in memory, with the same contract as the real one (test_images.py).

The bytes of an image are kept in a dict; only disks of nodes are files, for those the caller chowns
and deletes. `web` plays the network: what a URL has, or the error it ends with.
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
    StorageFailed,
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

    async def make_overlay(self, image: Image, path: Path, size: int | None) -> None:
        """Make a file that says what it is an overlay of."""
        if image.format not in (ImageFormat.RAW, ImageFormat.QCOW2):
            raise InputError(f"image {image.name} has no disk to write on")
        wanted = image.virtual_size if size is None else size
        if wanted < image.virtual_size:
            raise InputError(f"a disk of {wanted} bytes is smaller than image {image.name}")
        self._make(path, f"{wanted} on {image.digest}\n")

    async def make_blank(self, path: Path, size: int) -> None:
        """Make a file that says its size."""
        if size <= 0:
            raise InputError(f"a disk of {size} bytes cannot be made")
        self._make(path, f"{size} blank\n")

    async def make_child(self, parent: Path, path: Path) -> None:
        """Make a file that says what it stands on."""
        self._make(path, f"on {parent.name}\n")

    async def make_seed(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Make a file that has all the files in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(name.encode() + b"\0" + files[name] for name in sorted(files)))
        path.chmod(0o600)

    def _make(self, path: Path, text: str) -> None:
        try:
            with path.open("x") as file:
                file.write(text)
        except OSError as error:
            raise StorageFailed(f"cannot make disk {path.name}: {error.strerror}") from error
        path.chmod(0o600)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Forget every digest that is not kept."""
        kept = frozenset(keep)
        gone = sorted(f"sha256:{key}" for key in self.contents if f"sha256:{key}" not in kept)
        for digest in gone:
            del self.contents[digest.removeprefix("sha256:")]
        return gone
