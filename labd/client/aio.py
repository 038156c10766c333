"""`AsyncClient`: the client for asyncio programs such as plugins; each call runs in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

from labd.client import types
from labd.client.client import Client

T = TypeVar("T")


class AsyncClient:
    """Like `Client`; calls may overlap, each takes a connection of its own from a small pool.

    Args:
        socket_path: See `Client`.
        token: See `Client`.
    """

    def __init__(self, socket_path: str | None = None, token: str = "") -> None:
        self._path = socket_path
        self._token = token
        self._idle: list[Client] = []

    async def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all idle connections."""
        await self.close()

    async def call(self, work: Callable[[Client], T]) -> T:
        """Run any method of `Client` in a thread: `await lab.call(lambda c: c.images())`."""
        client = self._idle.pop() if self._idle else Client(self._path, self._token)

        def run() -> T:
            # In the thread, so that a cancelled call never gives a busy connection back early.
            try:
                return work(client)
            finally:
                self._idle.append(client)

        return await asyncio.to_thread(run)

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        return await self.call(lambda c: c.info())

    async def labs(self) -> list[types.LabBrief]:
        """See `Client.labs`."""
        return await self.call(lambda c: c.labs())

    async def lab(self, lab: str) -> types.Lab:
        """See `Client.lab`."""
        return await self.call(lambda c: c.lab(lab))

    async def node(self, lab: str, node: str) -> types.Node:
        """See `Client.node`."""
        return await self.call(lambda c: c.node(lab, node))

    async def node_log(self, lab: str, node: str) -> bytes:
        """See `Client.node_log`."""
        return await self.call(lambda c: c.node_log(lab, node))

    async def up(
        self,
        lab: str,
        text: str,
        *,
        settings: Mapping[str, str] | None = None,
        keep: bool = False,
        timeout: float | None = None,
    ) -> types.Operation:
        """See `Client.up`."""
        return await self.call(
            lambda c: c.up(lab, text, settings=settings, keep=keep, timeout=timeout)
        )

    async def act(
        self,
        action: types.ActionName,
        lab: str,
        nodes: Sequence[str] = (),
        *,
        force: bool = False,
        grace: float = 20.0,
    ) -> types.Operation:
        """See `Client.act`."""
        return await self.call(lambda c: c.act(action, lab, nodes, force=force, grace=grace))

    async def start(self, lab: str, *nodes: str) -> types.Operation:
        """Begin to start a lab or some of its nodes."""
        return await self.act("start", lab, nodes)

    async def stop(self, lab: str, *nodes: str, force: bool = False) -> types.Operation:
        """Begin to stop a lab or some of its nodes."""
        return await self.act("stop", lab, nodes, force=force)

    async def restart(self, lab: str, *nodes: str, force: bool = False) -> types.Operation:
        """Begin to restart a lab or some of its nodes."""
        return await self.act("restart", lab, nodes, force=force)

    async def reset(self, lab: str, *nodes: str) -> types.Operation:
        """Begin to reset a lab or some of its nodes."""
        return await self.act("reset", lab, nodes)

    async def operation(self, id: str, wait: float = 0.0) -> types.Operation:
        """See `Client.operation`."""
        return await self.call(lambda c: c.operation(id, wait))

    async def wait_operation(self, id: str, timeout: float | None = None) -> types.Operation:
        """See `Client.wait_operation`."""
        return await self.call(lambda c: c.wait_operation(id, timeout))

    async def events(
        self, after: int | None = None, limit: int = 500, *, lab: str = "", type: str = ""
    ) -> types.EventPage:
        """See `Client.events`."""
        return await self.call(lambda c: c.events(after, limit, lab=lab, type=type))

    async def follow(
        self, after: int | None = None, *, lab: str = "", type: str = ""
    ) -> AsyncGenerator[types.Event, None]:
        """See `Client.follow`; close the generator (`contextlib.aclosing`) to end it early."""
        client = Client(self._path, self._token)
        target = client.follow_target(after, lab=lab, type=type)
        answer = await asyncio.to_thread(client.transport.stream, target)
        lines = client.lines(answer)
        end = object()
        try:
            while True:
                event = await asyncio.to_thread(next, lines, end)
                if event is end or not isinstance(event, dict):
                    return
                yield event
        finally:
            answer.close()  # wakes the thread that reads
