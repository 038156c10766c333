"""The image store: immutable files by digest.

    <state>/images/<sha256 hex>/disk             or kernel and initrd, or all three; files 0444
    <state>/images/.partial/<random>/            what is being received; swept at the next start
    <cache>/downloads/                           unfinished downloads, to be resumed
    <cache>/tiny/, <cache>/debs/                 see labd.images.tiny
    <cache>/debian/                              see labd.images.debian

Names and rows are the inventory's; nothing here knows what an image is called by others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from labd.host.failpoints import failpoints
from labd.host.threads import bulk, bulk_whole, quick
from labd.images import debian, headers, recipes, tiny
from labd.images.bootsector import READY, boot_sector
from labd.images.convert import Converter
from labd.images.download import Download
from labd.images.foreign import NAMES
from labd.images.intake import (
    Sink,
    as_storage_failed,
    copy_file,
    digest_of,
    find_foreign,
    inspect_file,
    split_kernel,
    sync,
)
from labd.model.errors import ImageRefused, InputError
from labd.model.images import Image, ImageFormat
from labd.model.names import check_name, did_you_mean

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_RECIPES = (*tiny.FLAVOURS, "debian", "bootsector")
_PARTS = ("disk", "kernel", "initrd")


class ImageStore:
    """Implements the port `Images` of the engine (`labd.core.ports`).

    Args:
        state: Root of what must be kept; the store lives in `images` below it.
        cache: Root of what may be deleted at any time.
        max_size: Bytes that one image may have on disk at most; None: as much as there is room.
        converter: Makes qcow2 of the disks of others; None: they are refused.
    """

    def __init__(
        self,
        state: Path,
        cache: Path,
        *,
        max_size: int | None = None,
        converter: Converter | None = None,
    ) -> None:
        self._root = state / "images"
        self._partial = self._root / ".partial"
        self._cache = cache
        self._max_size = max_size
        self._converter = converter

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
        """Take an upload into the store.

        For `format=kernel`, the stream is the kernel (`kernel_size` bytes; None: all of it) and
        then the initramfs.

        Raises:
            InputError: The name or the digest is not well formed.
            ImageRefused: Unsafe, damaged, truncated, wrong digest. Nothing stays behind.
            StorageFailed: No space. Nothing stays behind.
        """
        check_name(name, "image")
        expected = parse_sha256(sha256)
        async with contextlib.AsyncExitStack() as undo:
            folder = await self._staging(undo)
            digest, size = await self._save(chunks, folder / "disk")
            _check_digest(digest, expected)
            if format is None and (made := await self._converted(folder)) is not None:
                digest, size, kind = made
                source = f"{source} (converted from {kind})".lstrip()
            return await bulk_whole(
                self._admit,
                Image(
                    name=name,
                    format=format or ImageFormat.RAW,
                    digest=digest,
                    size=size,
                    cmdline=cmdline,
                    source=source,
                    created=_now(),
                ),
                folder,
                format,
                kernel_size,
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
        """Take a URL (http, https) into the store, resuming what an earlier try left.

        `progress` is called with bytes so far and bytes in all (None: not known).

        Raises:
            InputError: The name, the URL or the digest is not well formed.
            ImageRefused, StorageFailed: As in `receive`; the partial file is removed.
            DownloadFailed: The partial file is kept for the next try.
        """
        check_name(name, "image")
        expected = parse_sha256(sha256)
        transfer = Download(url, self._cache / "downloads", max_size=self._max_size)
        path = await transfer.fetch(progress)
        try:
            return await self.receive(
                name, _chunks(path), format=format, sha256=expected, source=transfer.shown
            )
        finally:
            await bulk(transfer.discard)

    async def build(self, recipe: str, name: str, progress: Callable[[str], None]) -> Image:
        """Build a recipe; the same inputs come from the cache.

        Raises:
            InputError: There is no such recipe.
            CommandFailed: With the last words of the tool that failed.
        """
        if recipe not in _RECIPES:
            raise InputError(
                f"there is no image recipe {recipe[:64]!r}{did_you_mean(recipe, _RECIPES)}"
            )
        check_name(name, "image")
        if recipe == "bootsector":
            image = await self.receive(
                name, _once(boot_sector()), format=ImageFormat.RAW, source="recipe bootsector"
            )
            return replace(image, ready_pattern=READY)
        if recipe == "debian":
            built = recipes.debian(await debian.build(self._cache, progress))
        else:
            built = recipes.tiny(await tiny.build(self._cache, progress, tiny.FLAVOURS[recipe]))
        image = replace(built.image, name=name, source=f"recipe {recipe}", created=_now())
        async with contextlib.AsyncExitStack() as undo:
            folder = await self._staging(undo)
            return await bulk_whole(self._admit_built, image, built.parts, folder)

    async def discard(self, image: Image) -> None:
        """Delete the files of a digest (idempotent)."""
        await bulk(self._remove, self._folder(image))

    def files(self, image: Image) -> Mapping[str, Path]:
        """Return part name (`disk`, `kernel`, `initrd`) -> path."""
        folder = self._folder(image)
        return {part: folder / part for part in image.files if part in _PARTS}

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """Remove what interrupted imports left and every digest not in `keep`; tell what went."""
        return await bulk(self._sweep, frozenset(keep))

    def _folder(self, image: Image) -> Path:
        found = _DIGEST.match(image.digest)
        if found is None:
            raise InputError(f"image {image.name} has no valid digest: {image.digest[:80]!r}")
        return self._root / found[1]

    async def _staging(self, undo: contextlib.AsyncExitStack) -> Path:
        """Make a folder of its own for one import; it is gone at the end, whatever happens."""
        folder = await quick(self._make_staging)
        undo.push_async_callback(bulk, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _make_staging(self) -> Path:
        with as_storage_failed("make room for an image"):
            self._partial.mkdir(parents=True, exist_ok=True, mode=0o755)
            return Path(tempfile.mkdtemp(dir=self._partial))

    async def _save(self, chunks: AsyncIterator[bytes], path: Path) -> tuple[str, int]:
        """Write the stream with its holes left out; return digest and length."""
        sink = Sink(path, self._max_size)
        try:
            async for chunk in chunks:
                await bulk(sink.write, chunk)
            return await bulk(sink.finish)
        finally:
            sink.close()

    async def _converted(self, folder: Path) -> tuple[str, int, str] | None:
        """Make qcow2 of a disk of another maker: its digest, length and old format; else None."""
        received, made = folder / "disk", folder / "qcow2"
        if self._converter is None:
            return None
        with as_storage_failed("look at an image"):
            kind = await bulk(find_foreign, received)
        if kind is None:
            return None
        await self._converter.convert(kind, received, made, self._max_size)
        with as_storage_failed("store an image"):
            made.replace(received)
            digest = await bulk(digest_of, received)
            return digest, received.stat().st_size, NAMES[kind]

    def _admit(
        self,
        image: Image,
        folder: Path,
        declared: ImageFormat | None,
        kernel_size: int | None,
    ) -> Image:
        """Check what was received into `folder`, and put it in its place."""
        with as_storage_failed(f"store image {image.name}"):
            if declared is ImageFormat.KERNEL:
                files = split_kernel(folder, kernel_size)
                facts = headers.Facts(format=ImageFormat.KERNEL, virtual_size=0)
            else:
                files = ("disk",)
                facts = inspect_file(folder / "disk", declared)
            self._publish(folder, files, image.digest)
        return Image(
            name=image.name,
            format=facts.format,
            digest=image.digest,
            size=image.size,
            virtual_size=facts.virtual_size,
            files=files,
            cmdline=image.cmdline,
            created=image.created,
            source=image.source,
        )

    def _admit_built(self, image: Image, parts: Mapping[str, Path], folder: Path) -> Image:
        """Take built files into the store; the digest is over all, one after the other."""
        digest, size = hashlib.sha256(), 0
        with as_storage_failed(f"store image {image.name}"):
            for part, source in parts.items():
                size += copy_file(source, folder / part, digest.update)
            text = f"sha256:{digest.hexdigest()}"
            self._publish(folder, tuple(parts), text)
        return replace(image, digest=text, size=size, files=tuple(parts))

    def _publish(self, folder: Path, files: Sequence[str], digest: str) -> None:
        """Make the staged files durable and rename their folder to its digest."""
        final = self._root / digest.removeprefix("sha256:")
        if all((final / part).is_file() for part in files):
            return
        if final.exists():  # the same bytes, once taken as a disk and now as a kernel
            raise ImageRefused(
                f"the store has {digest} with other parts ({', '.join(os.listdir(final))}); "
                "remove that image first"
            )
        failpoints.reach_sync("images.staged")
        staged = folder / "ready"
        staged.mkdir(mode=0o755)
        for part in files:
            target = staged / part
            (folder / part).rename(target)
            target.chmod(0o444)
            sync(target)
        staged.chmod(0o755)
        sync(staged)
        staged.rename(final)
        sync(self._root)
        failpoints.reach_sync("images.published")

    def _remove(self, folder: Path) -> None:
        with as_storage_failed("delete an image"):
            if not folder.exists():
                return
            # A rename first, so that nobody ever finds half an image under its digest.
            self._partial.mkdir(parents=True, exist_ok=True)
            doomed = Path(tempfile.mkdtemp(dir=self._partial))
            folder.rename(doomed / "gone")
            shutil.rmtree(doomed)

    def _sweep(self, keep: frozenset[str]) -> list[str]:
        gone: list[str] = []
        with as_storage_failed("sweep the image store"):
            if not self._root.exists():
                return gone
            for entry in sorted(self._root.iterdir()):
                if _HEX.match(entry.name) and f"sha256:{entry.name}" not in keep:
                    self._remove(entry)
                    gone.append(f"sha256:{entry.name}")
            if self._partial.exists():
                for entry in sorted(self._partial.iterdir()):
                    shutil.rmtree(entry)
                    gone.append(f"interrupted import {entry.name}")
        return gone


def parse_sha256(text: str) -> str:
    """Return the 64 hex digits of a digest, with or without `sha256:` before it.

    Raises:
        InputError: It is not one.
    """
    plain = text.strip().lower().removeprefix("sha256:")
    if plain and not _HEX.match(plain):
        raise InputError(
            f"{text[:80]!r} is no sha256 digest; give 64 hex digits as sha256sum prints them"
        )
    return plain


def _check_digest(found: str, expected: str) -> None:
    if expected and found != f"sha256:{expected}":
        raise ImageRefused(
            f"the digest is {found}, not sha256:{expected} as asked for; the file is "
            "damaged or another one: check the source"
        )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await quick(path.open, "rb")
    try:
        while chunk := await bulk(file.read, 1 << 20):
            yield chunk
    finally:
        file.close()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
