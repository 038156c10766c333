"""The captures of a `FakeEngine`: two blocks each, then they wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from labd.drivers.network.port import PacketCapture
from labd.model.errors import InputError, NotFound
from tests.fakes.networks import FakeCapture


class FakeCapturesApi:
    """Implements `CapturesApi`; `find` raises for labs that are not there."""

    def __init__(self, find: Callable[[str], Awaitable[object]]) -> None:
        self._find = find
        self.made: list[FakeCapture] = []

    @asynccontextmanager
    async def open(
        self, lab: str, target: str, *, filter: str = "", count: int = 0
    ) -> AsyncIterator[PacketCapture]:
        await self._find(lab)
        if filter == "bad":
            raise InputError("filter 'bad': syntax error; see pcap-filter(7)")
        if target not in ("lan", "a/eth0"):
            raise NotFound(f"there is no link or network {target}")
        capture = FakeCapture(target)
        if count:
            capture.stop("count")
        self.made.append(capture)
        try:
            yield capture
        finally:
            capture.close()
