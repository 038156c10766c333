"""Named places in labd at which tests make the daemon die, stop, wait or meet an error.

A place is reached before and after every call by which the engine changes the world (see
`labd.core.guard`), and at the steps inside of such calls where a death leaves half a thing
(`STEPS`). Nothing is done at them unless the environment variable `LABD_FAILPOINTS` names a file
when the daemon starts. The file is read each time that a place is reached, one order a line:

    storage.clone:after = kill
    nodes.launch:before@2 = kill                the second time, counted from when the file was put
    networks.apply:before = raise
    networks.apply:before = delay 0.5           seconds
    snapshots.save:before = hold /path          make this file, and wait until somebody removes it
    images.publish = errno ENOSPC
    inventory.commit:after = cancel             the task is cancelled here
    inventory.commit:before = cancel next       it is cancelled where it waits next: in the commit
    inventory.commit:after@3 = stop             labd gets SIGTERM, and this waits to be cancelled
    clock.wall = offset -86400                  seconds by which labd's wall clock is set
    * = trace /path                             append each reached name to a file
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from labd.model.errors import WorldError

VARIABLE: Final = "LABD_FAILPOINTS"
# Steps inside of one call of a port: name -> what a death there leaves behind.
STEPS: Final[Mapping[str, str]] = {
    "network.namespace-made": "a namespace without labd's mark",
    "network.taps-made": "taps that are in no bridge",
    "dnsmasq.spawned": "a dnsmasq that nobody waits for",
    "qemu.spawned": "a QEMU that nobody has spoken to",
    "images.staged": "an image in the folder of partial ones",
    "images.published": "an image without a row",
}
WALL_CLOCK: Final = "clock.wall"
_LOOK = 0.005  # seconds
_STOPS_WITHIN = 20.0  # seconds in which a stop must have cancelled who asked for it
_THREAD_LINGERS = 0.3  # seconds that a thread, which cannot be cancelled, lets a stop come
_ORDER_LIMIT = 1 << 16  # characters of the file that are read


class Failpoints:
    """The places of one process.

    Args:
        file: Of the orders; None: no place does anything.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._reached: Counter[str] = Counter()
        self._orders: object = None

    def arm(self, environment: Mapping[str, str]) -> None:
        """Obey the file that `VARIABLE` names, if it does; called once, as the daemon starts."""
        path = environment.get(VARIABLE)
        self._file = Path(path) if path else None

    @property
    def armed(self) -> bool:
        """True if places may do something."""
        return self._file is not None

    def order(self, name: str) -> str:
        """Count that a place is reached, and return what to do there; empty for nothing."""
        if self._file is None:
            return ""
        orders = self._read()
        self._reached[name] += 1
        found = ""
        for place, order in orders:
            if place == "*" and order.startswith("trace "):
                _append(Path(order.removeprefix("trace ")), name)
            elif place in {name, f"{name}@{self._reached[name]}"}:
                found = order
        return found

    def offset(self, name: str) -> float:
        """Return by how many seconds a clock shall be wrong; 0 where nothing is ordered.

        A clock is no place: to look at it neither counts nor is traced.
        """
        found = next((order for place, order in self._read() if place == name), "")
        verb, _, seconds = found.partition(" ")
        return float(seconds) if verb == "offset" else 0.0

    def _read(self) -> list[tuple[str, str]]:
        """Return (place, order) of each line; none where places do nothing."""
        if self._file is None:
            return []
        try:
            with self._file.open() as file:
                text, status = file.read(_ORDER_LIMIT), os.fstat(file.fileno())
        except OSError:
            return []
        # The number of an inode alone is not enough: the second next file may get it again.
        orders = status.st_ino, status.st_mtime_ns, text
        if orders != self._orders:
            self._orders = orders
            self._reached.clear()
        lines = (line.partition("=") for line in text.splitlines())
        return [(place.strip(), order.strip()) for place, _, order in lines]

    async def reach(self, name: str) -> None:
        """Do what was ordered for a place; other tasks go on meanwhile.

        Raises:
            WorldError, OSError: As ordered.
        """
        order = self.order(name)
        if order.startswith("delay "):
            await asyncio.sleep(float(order.removeprefix("delay ")))
        elif order.startswith("hold "):
            # No thread: the place before a commit is inside of a transaction.
            file = Path(order.removeprefix("hold "))
            _touch(file)
            while _exists(file):  # noqa: ASYNC110 - another process removes it
                await asyncio.sleep(_LOOK)
        elif order in {"cancel", "cancel next", "stop"}:
            await _cancel(order)
        elif order:
            _obey(name, order)

    def reach_sync(self, name: str) -> None:
        """Do what was ordered for a place, in a thread.

        Raises:
            WorldError, OSError: As ordered.
        """
        order = self.order(name)
        if order.startswith("delay "):
            time.sleep(float(order.removeprefix("delay ")))
        elif order.startswith("hold "):
            _hold(Path(order.removeprefix("hold ")))
        elif order == "stop":
            signal.raise_signal(signal.SIGTERM)
            time.sleep(_THREAD_LINGERS)
        elif order:
            _obey(name, order)


async def _cancel(order: str) -> None:
    """Have this task cancelled, as a stop of labd does."""
    if order == "stop":
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(_STOPS_WITHIN)
        return
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    if order == "cancel":
        await asyncio.sleep(0)


def _obey(name: str, order: str) -> None:
    verb, _, what = order.partition(" ")
    if verb == "kill":
        signal.raise_signal(signal.SIGKILL)
    elif verb == "raise":
        raise WorldError(f"failpoint {name}")
    elif verb == "errno":
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number), name)


def _hold(file: Path) -> None:
    _touch(file)
    while _exists(file):
        time.sleep(_LOOK)


def _touch(file: Path) -> None:
    file.touch()


def _exists(file: Path) -> bool:
    return file.exists()


def _append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


failpoints: Final = Failpoints()
