"""Screens of the machines of a `FakeHost`, with the same contract as QEMU's (test_screens.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from labd.drivers.node.qemu.picture import png_of
from labd.model.errors import NodeGone, NodeUnresponsive
from labd.model.keys import Chord
from tests.fakes.host import FakeHost, FakeMachine


class FakeScreens:
    """Implements the port `Screens`; `pressed` is what was typed by machine key."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.pressed: dict[str, list[Chord]] = {}

    def _machine(self, key: str) -> FakeMachine:
        machine = self._host.machines.get(key)
        if machine is None:
            raise NodeGone(f"machine {key} does not run")
        if machine.hung:
            raise NodeUnresponsive(f"{machine.name} hangs")
        return machine

    async def screenshot(self, key: str) -> bytes:
        self._machine(key)
        return png_of(b"P6\n640 480\n255\n" + bytes(640 * 480 * 3))

    async def press(self, key: str, chords: Sequence[Chord]) -> None:
        self._machine(key)
        self.pressed.setdefault(key, []).extend(chords)

    async def viewer(self, key: str) -> FakeScreenViewer:
        self._machine(key)
        return FakeScreenViewer()


class FakeScreenViewer:
    """Greets, and ends when it is closed."""

    def __init__(self) -> None:
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._out.put_nowait(b"RFB 003.008\n")

    async def read(self) -> bytes:
        return await self._out.get()

    async def write(self, data: bytes) -> None:
        self._out.put_nowait(b"\x01\x01")

    async def close(self) -> None:
        self._out.put_nowait(b"")
