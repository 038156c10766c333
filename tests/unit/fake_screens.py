"""The screens of a `FakeEngine`: one white dot, a keyboard that remembers, viewers that echo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from labd.drivers.node.capabilities import ViewerStream
from labd.drivers.node.qemu.picture import png_of
from labd.model.keys import presses
from labd.model.names import NodeRef

DOT = png_of(b"P6\n1 1\n255\n\xff\xff\xff")


class FakeViewerStream:
    """Greets as a VNC server does, then echoes."""

    def __init__(self) -> None:
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._out.put_nowait(b"RFB 003.008\n")

    async def read(self) -> bytes:
        return await self._out.get()

    async def write(self, data: bytes) -> None:
        await self._out.put(data)

    async def close(self) -> None:
        self._out.put_nowait(b"")


class FakeScreensApi:
    """Implements `ScreensApi`; `find` raises for nodes that are not there."""

    def __init__(self, find: Callable[[NodeRef], Awaitable[object]]) -> None:
        self._find = find
        self.typed: list[tuple[str, ...]] = []

    async def screenshot(self, ref: NodeRef) -> bytes:
        await self._find(ref)
        return DOT

    async def type(self, ref: NodeRef, text: str, chords: Sequence[str]) -> int:
        keys = presses(text, chords)
        await self._find(ref)
        self.typed += keys
        return len(keys)

    @asynccontextmanager
    async def viewer(self, ref: NodeRef) -> AsyncIterator[ViewerStream]:
        await self._find(ref)
        yield FakeViewerStream()
