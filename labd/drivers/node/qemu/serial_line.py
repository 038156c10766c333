"""Keeps labd connected to a machine's serial line, and tells when nobody hears it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from labd.drivers.node.qemu import process
from labd.drivers.node.qemu.console import ConsoleHub
from labd.host.backoff import Backoff
from labd.model.machine import GuestEventKind

_FIRST, _LAST = 0.2, 10.0  # seconds between tries to connect
_PATIENCE = 3  # tries in vain after which is told that nobody hears the line

_K = GuestEventKind
Report = Callable[[GuestEventKind, dict[str, object]], None]


class SerialLine:
    """The connection between a machine's console hub and its QEMU.

    Args:
        hub: Records and shows what comes.
        path: Returns the path of QEMU's socket.
        look: Returns when QEMU has taken a new connection, if it answers.
        over: Tells whether the machine has ended, or is let go.
        report: Hears CONSOLE_LOST and CONSOLE_RESTORED.
    """

    def __init__(
        self,
        hub: ConsoleHub,
        path: Callable[[], Path],
        look: Callable[[], Awaitable[None]],
        over: Callable[[], bool],
        report: Report,
    ) -> None:
        self._hub = hub
        self._path = path
        self._look = look
        self._over = over
        self._report = report
        self._trying = False
        self._deaf_since: float | None = None
        self._told = False

    async def connect(self) -> None:
        """Connect once; nothing is read before the hub's `catch_up`.

        Raises:
            OSError: Nobody listens, or the log cannot be written.
        """
        sock = process.connect(self._path())
        try:
            await self._hub.attach(sock, fresh=False)
        except BaseException:
            sock.close()
            raise

    async def reconnect(self) -> None:
        """Connect for as long as it takes, with pauses that grow, while the machine lives."""
        if self._trying or self._hub.attached:
            return
        self._trying = True
        if self._deaf_since is None:
            self._deaf_since = asyncio.get_running_loop().time()
        try:
            await self._until_connected()
        finally:
            self._trying = False

    async def _until_connected(self) -> None:
        backoff, tries = Backoff(_FIRST, _LAST), 0
        while True:
            await asyncio.sleep(backoff.pause())
            if self._over():
                return
            try:
                await self.connect()
            except OSError as error:
                tries += 1
                if tries == _PATIENCE:
                    self._lost(error)
                continue
            await self.catch_up()
            if self._hub.attached:
                self._heard()
                return

    async def swap(self) -> None:
        """Put a fresh connection in place of the present one, if there is one.

        Raises:
            OSError: It cannot be made; the hub may be without one then.
        """
        await self._hub.swap(process.connect(self._path()))
        await self.catch_up()

    async def catch_up(self) -> None:
        """Hear what was said between two connections."""
        await self._look()
        self._hub.catch_up()

    def _lost(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            reason = f"labd cannot connect to the serial line: {error.strerror or error}"
            self._report(_K.CONSOLE_LOST, {"reason": reason})

    def _heard(self) -> None:
        now = asyncio.get_running_loop().time()
        since, self._deaf_since = self._deaf_since, None
        told, self._told = self._told, False
        if told and since is not None:
            self._report(_K.CONSOLE_RESTORED, {"seconds": round(now - since, 3)})
