"""Pictures of a screen, its keyboard and its viewers (`drivers.node.capabilities.Screens`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from labd.drivers.node.qemu.picture import PICTURE_LIMIT, png_of
from labd.drivers.node.qemu.vm import Vm
from labd.host.threads import bulk
from labd.model.errors import LabdError
from labd.model.keys import Chord

# Seconds that a key is held, and between two: a PS/2 keyboard keeps 16 bytes, and a guest under
# TCG is slow to take them.
_HOLD, _PAUSE = 0.02, 0.02
_CHUNK = 64 << 10


class QemuScreens:
    """The screens of the machines of one hypervisor.

    Args:
        find: Machine key -> running machine; raises NodeGone.
    """

    def __init__(self, find: Callable[[str], Vm]) -> None:
        self._find = find

    async def screenshot(self, key: str) -> bytes:
        """Return the picture as PNG (QMP `screendump`); see the port.

        QEMU reaches no path, so it writes to a file in memory that it is handed as a descriptor.
        """
        vm = self._find(key)
        with contextlib.ExitStack() as stack:
            memory = os.memfd_create(f"labd-{key}-screen", os.MFD_CLOEXEC)
            stack.callback(os.close, memory)
            # QEMU takes a descriptor from the set only if it is open exactly as it would open it.
            out = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, out)
            async with vm.monitor.lent(out) as path:
                await vm.execute("screendump", {"filename": path})
            pixmap = await bulk(os.pread, memory, PICTURE_LIMIT, 0)
        return await bulk(png_of, pixmap)

    async def press(self, key: str, chords: Sequence[Chord]) -> None:
        """Press keys (QMP `input-send-event`); see the port."""
        vm = self._find(key)
        for chord in chords:
            down: list[str] = []
            try:
                for code in chord:
                    down.append(code)
                    await vm.execute("input-send-event", {"events": [_key(code, down=True)]})
                await asyncio.sleep(_HOLD)
            finally:
                # No key stays down, whatever happened.
                released = [_key(code, down=False) for code in reversed(down)]
                await asyncio.shield(vm.execute("input-send-event", {"events": released}))
            await asyncio.sleep(_PAUSE)

    async def viewer(self, key: str) -> Viewer:
        """Connect one more viewer; see the port."""
        vm = self._find(key)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            with contextlib.closing(theirs):
                await vm.vnc.hand_over(theirs)
        except LabdError:
            ours.close()
            raise
        return Viewer(ours)


class Viewer:
    """One viewer's end of its connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return the next bytes; empty when the machine has gone."""
        try:
            return await self._loop.sock_recv(self._sock, _CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Send bytes; what a machine that has gone does not take is dropped."""
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._sock, data)

    async def close(self) -> None:
        """Leave (idempotent)."""
        self._sock.close()


def _key(code: str, *, down: bool) -> dict[str, object]:
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": code}}}
