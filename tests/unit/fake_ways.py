"""The ways of a `FakeEngine`: every port of a node echoes in capitals, and port 9 is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from labd.model.access import KeyPair
from labd.model.errors import NetworkFailed
from labd.model.names import NodeRef

CLOSED = 9


class FakeWays:
    """Implements `ConnectApi`; `node` and `lab` raise for what is not there."""

    def __init__(
        self,
        node: Callable[[NodeRef], Awaitable[object]],
        lab: Callable[[str], Awaitable[object]],
    ) -> None:
        self._node = node
        self._lab = lab
        self._tasks: set[asyncio.Task[None]] = set()

    async def to_node(self, ref: NodeRef, port: int, timeout: float = 10.0) -> socket.socket:
        await self._node(ref)
        if port == CLOSED:
            raise NetworkFailed(f"cannot reach {ref}: 10.0.0.1:9: connection refused", errno=111)
        near, far = socket.socketpair()
        near.setblocking(False)
        task = asyncio.create_task(_echo(far))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return near

    async def to_host(self, lab: str, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        return await self.to_node(NodeRef(lab, host), port)

    async def key(self, lab: str) -> KeyPair:
        await self._lab(lab)
        return KeyPair(public="ssh-ed25519 AAAA labd-abc123", private="PRIVATE\n")


async def _echo(far: socket.socket) -> None:
    """Say back in capitals what is heard; at its end say `bye`, and end."""
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
