"""The seams for ways into a lab: connections, ports of the host, and keys."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from labd.model.access import KeyPair

Dial = Callable[[], Awaitable[socket.socket]]


class Dialer(Protocol):
    """Makes TCP connections from inside a lab's namespace."""

    async def dial(self, namespace: str, address: str, port: int, timeout: float) -> socket.socket:
        """Return a connected, non-blocking socket; the caller closes it.

        Raises:
            NetworkFailed: There is no such namespace, or no connection within `timeout` seconds;
                `details["errno"]` says which, and `details["timed_out"]` that nobody answered.
        """


class Door(Protocol):
    """A port of the host that is listened at."""

    @property
    def port(self) -> int:
        """Its number."""

    async def close(self) -> None:
        """Listen no more, and end every connection that came through it (idempotent)."""


class Doors(Protocol):
    """Listens at ports of the host."""

    def open(self, address: str, port: int, dial: Dial) -> Door:
        """Listen at once; each connection is passed on to one that `dial` makes.

        With port 0 the kernel chooses one.

        Raises:
            InputError: The port is in use, or the address is none of this host.
        """


class LabKeys(Protocol):
    """SSH key pairs on the disk, by lab key."""

    async def ensure(self, lab_key: str) -> KeyPair:
        """Return the key pair of a lab; it is made at the first time.

        Raises:
            CommandFailed: It cannot be made; nothing is left.
        """

    async def read(self, lab_key: str) -> KeyPair | None:
        """Return the key pair of a lab, None when it has none."""

    async def remove(self, lab_key: str) -> None:
        """Delete it (idempotent)."""

    async def all(self) -> Sequence[str]:
        """Return the lab keys that have a key pair."""
