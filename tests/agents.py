"""The client of a guest agent which a test plays."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from labd.drivers.node.qemu.agent import GuestAgent


@asynccontextmanager
async def talking(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[GuestAgent]:
    """Give the client of an agent; `serve` plays it, behind QEMU's socket."""
    tasks: list[asyncio.Task[object]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()

    with tempfile.TemporaryDirectory(prefix="labd-ga-", dir="/tmp") as name:
        path = Path(name) / "agent.sock"
        server = await asyncio.start_unix_server(connected, path)
        agent = GuestAgent(path, "web/server")
        agent.open = True
        try:
            yield agent
        finally:
            agent.close()
            server.close()
            await server.wait_closed()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks)
            await asyncio.sleep(0)  # until the transports have seen their end
