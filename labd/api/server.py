"""Serve the app on sockets that are bound already; stop within two seconds whatever is open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from labd.api.access import Services

_GRACE = 1  # seconds for requests under way
_WS_MESSAGE_LIMIT = 64 * 1024  # bytes a viewer may type at once


class _Server(uvicorn.Server):
    """uvicorn without signal handlers (they are the daemon's), ending streams when it stops."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._services.closing.set()
        await super().shutdown(sockets)


def _server(app: FastAPI) -> _Server:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=_WS_MESSAGE_LIMIT,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_GRACE,
    )
    return _Server(config, app.state.services)


@asynccontextmanager
async def serving(app: FastAPI, sockets: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Answer requests while the block runs; the sockets are closed at its end.

    Args:
        app: Made by `create_app`.
        sockets: Bound (and with their modes set); uvicorn listens on them.
    """
    server = _server(app)
    task = asyncio.create_task(server.serve(list(sockets)), name="api")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn tells by no event
            await asyncio.sleep(0.005)
        if task.done():
            await task
        yield
    finally:
        server.should_exit = True
        await task


async def serve(app: FastAPI, sockets: Sequence[socket.socket]) -> None:
    """Answer requests until cancelled."""
    async with serving(app, sockets):
        await asyncio.Event().wait()
