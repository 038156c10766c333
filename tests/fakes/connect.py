"""Fakes of the ports in `labd.drivers.network.port_ways`."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from collections.abc import Callable, Sequence

from labd.drivers.network.port import Dial
from labd.model.access import KeyPair
from labd.model.errors import InputError, NetworkFailed
from labd.model.publish import Bound


class FakeKeys:
    """Implements `LabKeys`; `pairs` is lab key -> pair."""

    def __init__(self) -> None:
        self.pairs: dict[str, KeyPair] = {}

    async def ensure(self, lab_key: str) -> KeyPair:
        await asyncio.sleep(0)
        pair = KeyPair(
            public=f"ssh-ed25519 {lab_key:A<68} labd-{lab_key}",
            private=f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lab_key}\n",
        )
        return self.pairs.setdefault(lab_key, pair)

    async def read(self, lab_key: str) -> KeyPair | None:
        return self.pairs.get(lab_key)

    async def remove(self, lab_key: str) -> None:
        self.pairs.pop(lab_key, None)

    async def all(self) -> Sequence[str]:
        return sorted(self.pairs)


class FakeDialer:
    """Implements `Dialer`; `listening` has (address, port), and every call is in `asked`.

    What listens says its address and ends, unless `guest` is set: it gets the far end.
    """

    def __init__(self) -> None:
        self.listening: set[tuple[str, int]] = set()
        self.asked: list[tuple[str, str, int]] = []
        self.guest: Callable[[socket.socket], None] | None = None

    async def dial(self, namespace: str, address: str, port: int, timeout: float) -> socket.socket:
        self.asked.append((namespace, address, port))
        if (address, port) not in self.listening:
            raise NetworkFailed(f"{address}:{port}: connection refused", errno=errno.ECONNREFUSED)
        near, far = socket.socketpair()
        near.setblocking(False)
        if self.guest is not None:
            self.guest(far)
            return near
        far.sendall(f"{address}:{port}".encode())
        far.close()
        return near


class EchoingGuest:
    """Says back in capitals what it hears, and `bye` at the end; for `FakeDialer.guest`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, far: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._echo(far))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _echo(self, far: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=far)
        try:
            while data := await reader.read(4096):
                writer.write(data.upper())
                await writer.drain()
            writer.write(b"bye")
        except ConnectionError:
            pass  # the caller has left
        finally:
            writer.close()


class FakePublishedPort:
    """A port of the fake host."""

    def __init__(
        self, published_ports: FakePublishedPorts, address: str, port: int, dial: Dial
    ) -> None:
        self.address = address
        self.port = port
        self.dial = dial
        self.refused: Callable[[Bound], None] = lambda _: None
        self._published_ports = published_ports

    async def close(self) -> None:
        if self._published_ports.taken.get((self.address, self.port)) is self:
            del self._published_ports.taken[self.address, self.port]


class FakePublishedPorts:
    """Implements `PublishedPorts`; `taken`: (address, port) -> port, None for somebody else's."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], FakePublishedPort | None] = {}
        self._next = itertools.count(40_000)

    def open(
        self,
        address: str,
        port: int,
        dial: Dial,
        *,
        lab: str,
        refused: Callable[[Bound], None],
    ) -> FakePublishedPort:
        if address not in {"127.0.0.1", "0.0.0.0", "::1"}:
            raise InputError(f"{address} is no address of this host; write 127.0.0.1")
        port = port or next(self._next)
        if (address, port) in self.taken:
            raise InputError(
                f"port {address}:{port} of the host is in use; choose another one, or 0 to have "
                "one chosen"
            )
        door = FakePublishedPort(self, address, port, dial)
        door.refused = refused
        self.taken[address, port] = door
        return door

    def open_ports(self) -> set[int]:
        return {port for (_, port), door in self.taken.items() if door is not None}

    def daemon_ended(self) -> None:
        """Close what a daemon had open, as its end does."""
        self.taken = {at: door for at, door in self.taken.items() if door is None}
