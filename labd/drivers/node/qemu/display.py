"""The screen's socket: labd accepts the viewers and hands each one to QEMU over QMP.

QEMU's user may create no socket, and QEMU 7.2 takes no listening descriptor for VNC; what it does
take is a connected one (`add_client`). The socket is root's, so that no guest can put another in
its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from pathlib import Path

from labd.drivers.node.qemu import process
from labd.drivers.node.qemu.monitor import Monitor
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.model.errors import LabdError

log = logging.getLogger(__name__)

_PAUSE = 0.2  # seconds before accept is tried again


class VncPort:
    """Accepts VNC viewers on a unix socket.

    Args:
        path: Where to listen.
        monitor: Whose machine has the screen.
        tasks: Runs what accepts.
    """

    def __init__(self, path: Path, monitor: Monitor, tasks: TaskSupervisor | None = None) -> None:
        self._tasks = tasks or TaskSupervisor()
        self._path = path
        self._monitor = monitor
        self._task: asyncio.Task[None] | None = None
        self._count = 0

    async def open(self) -> None:
        """Listen; what an earlier daemon left at the path is replaced.

        Raises:
            LaunchFailed: The folder forbids it.
        """
        self._path.unlink(missing_ok=True)
        sock = process.listen(self._path)
        name = f"screen {self._monitor.name}"
        self._task = self._tasks.supervise(name, functools.partial(self._serve, sock))
        self._task.add_done_callback(lambda _: sock.close())

    async def close(self) -> None:
        """Stop listening; who watches goes on watching (idempotent)."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_all([task])

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                viewer, _ = await loop.sock_accept(sock)
            except OSError as error:  # no descriptors left, for example
                log.warning("screen of %s: %s", self._monitor.name, error)
                await asyncio.sleep(_PAUSE)
                continue
            with contextlib.closing(viewer):
                try:
                    await self.hand_over(viewer)
                except LabdError as error:
                    log.warning("a viewer was turned away: %s", error)

    async def hand_over(self, viewer: socket.socket) -> None:
        """Give QEMU a connected viewer; errors as in `Monitor.execute`.

        Whoever calls has seen to it that the viewer may see the screen.
        """
        self._count += 1
        name = f"vnc{self._count}"
        await self._monitor.hand_over(name, viewer.fileno())
        # The socket's mode (0600, root), or the API's scope, is the authentication.
        await self._monitor.execute(
            "add_client", {"protocol": "vnc", "fdname": name, "skipauth": True}
        )
