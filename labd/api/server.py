"""Serve the app on sockets that are bound already; stop within two seconds whatever is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Final
from weakref import WeakSet

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from labd.api.authenticators import PEER, Peer
from labd.api.services import Services
from labd.host.config_people import ApiConfig
from labd.host.listening import check_tls, listen_tcp
from labd.host.ratelimit import RateLimiter
from labd.host.supervision import TaskState, TaskSupervisor
from labd.host.threads import quick

MOST: Final = 1_024  # connections of one server over TCP, or of one user of the host
_SHARE = 4  # of all descriptors, at most one part of this many
_SAY_AGAIN = 60.0  # seconds


def bound() -> int:
    """Return how many connections there may be of one user of the host."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // _SHARE)


class ConnectionLimiter:
    """The connections of one server, by where they come from.

    Args:
        each: Of one origin at one time.
        total: Of all at one time; None: no bound.
    """

    def __init__(self, each: int, total: int | None = None) -> None:
        self._each = each
        self._total = total
        self._open: dict[str, WeakSet[asyncio.BaseTransport]] = {}
        self._said = RateLimiter(1 / _SAY_AGAIN, 1)

    def admit(self, origin: str, transport: asyncio.BaseTransport) -> bool:
        """Count a connection, unless there are too many; tell whether it was."""
        if self._full(origin):
            self._forget()
            if self._full(origin):
                self._say(origin)
                return False
        self._open.setdefault(origin, WeakSet()).add(transport)
        return True

    def _full(self, origin: str) -> bool:
        if len(self._open.get(origin, ())) >= self._each:
            return True
        return self._total is not None and sum(map(len, self._open.values())) >= self._total

    def _say(self, origin: str) -> None:
        """Tell that a connection is cut off; not each time, for the log is to stay readable."""
        if not self._said.take():
            log.warning("%s has too many connections: new ones are cut off", origin)

    def _forget(self) -> None:
        """Forget those that have ended; nobody tells, as WebSockets leave their protocol."""
        for origin, transports in tuple(self._open.items()):
            for transport in tuple(transports):
                if transport.is_closing():
                    transports.discard(transport)
            if not transports:
                del self._open[origin]


def origin(transport: asyncio.BaseTransport, peer: Peer | None) -> str | None:
    """Return where a connection comes from, in words; None for root, who is not bounded."""
    if peer is not None:
        return None if peer.uid == 0 else f"user {peer.name}"
    address = transport.get_extra_info("peername")
    return str(address[0]) if address else "somebody"


log = logging.getLogger(__name__)

_FIRST_WORD = 60.0  # seconds from a connection to the end of the head of its first request
_GRACE = 1  # seconds for requests under way
_WS_MESSAGE_LIMIT = 64 * 1024  # bytes a viewer may type at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of TLS, PEM; `check_tls` has looked at them."""

    certificate: Path
    key: Path


class _Config(uvicorn.Config):
    """The configuration of a server that bounds its connections; `crowd` has them."""

    limiter: ConnectionLimiter


class _Protocol(H11Protocol):
    """HTTP that knows who is at the other end of a unix socket; WebSockets take it over."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        channel = transport.get_extra_info("socket")
        peer = Peer.of(channel) if channel is not None else None
        if peer is not None:
            self.app_state = {**self.app_state, PEER: peer}
        where, config = origin(transport, peer), self.config
        if where is not None and isinstance(config, _Config):
            if not config.limiter.admit(where, transport):
                transport.abort()
                return
            self._patience = self.loop.call_later(_FIRST_WORD, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        """End a connection on which no request has come."""
        begun = vars(self)["cycle"] is not None  # which uvicorn's types say is always so
        if not begun and self.transport.get_protocol() is self:
            self.transport.abort()


class _State(ServerState):
    """uvicorn's, with the date of an answer taken when it is made."""

    def __init__(self) -> None:
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of each answer, with `Date` (RFC 9110, section 6.6.1)."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = [(b"date", formatdate(now, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Take nothing: uvicorn begins with none."""


class _Server(uvicorn.Server):
    """uvicorn without signal handlers (they are the daemon's), ending streams when it stops.

    It waits to be stopped instead of looking ten times a second whether it is, which was a fifth of
    what an idle labd costs. Nothing else is done in uvicorn's loop but to keep the date.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self.server_state = _State()
        self._services = services
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Have `serve` return, after `shutdown`."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        await self._stopped.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._services.closing.set()
        await super().shutdown(sockets)


def _server(app: FastAPI, tls: Tls | None, limiter: ConnectionLimiter) -> _Server:
    config = _Config(
        app,
        http=_Protocol,
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
        ssl_certfile=None if tls is None else str(tls.certificate),
        ssl_keyfile=None if tls is None else str(tls.key),
    )
    config.limiter = limiter
    return _Server(config, app.state.services)


@asynccontextmanager
async def serving(
    app: FastAPI,
    sockets: Sequence[socket.socket],
    *,
    tls: Tls | None = None,
    limiter: ConnectionLimiter | None = None,
    tasks: TaskSupervisor | None = None,
) -> AsyncIterator[None]:
    """Answer requests while the block runs; the sockets are closed at its end.

    Args:
        app: Made by `create_app`.
        sockets: Bound (and with their modes set); uvicorn listens on them.
        tls: Without it, plain HTTP.
        limiter: Bounds the connections; by default those of each user of the host but root.
        tasks: Counts the end of the server, when nobody has asked for it.
    """
    server = _server(app, tls, limiter or ConnectionLimiter(bound()))
    task = asyncio.create_task(server.serve(list(sockets)), name="api")

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and tasks is not None:
            tasks.note("api", error, TaskState.ENDED)

    task.add_done_callback(ended)
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn tells by no event
            await asyncio.sleep(0.005)
        if task.done():
            await task
        yield
    finally:
        server.stop()
        await task


@asynccontextmanager
async def serving_tcp(
    app: FastAPI, api: ApiConfig, tasks: TaskSupervisor | None = None
) -> AsyncIterator[None]:
    """Answer people with tokens while the block runs, if the configuration asks for it.

    Raises:
        ConfigError: The address or the files of TLS cannot be used.
    """
    if api.listen is None:
        yield
        return
    tls = None
    if api.certificate is not None and api.key is not None:
        await quick(check_tls, api.certificate, api.key)
        tls = Tls(certificate=api.certificate, key=api.key)
    listener = await quick(listen_tcp, api.listen)
    with contextlib.closing(listener):
        most = bound()
        # A class behind one address has its half of all.
        limiter = ConnectionLimiter(most // 2, most)
        async with serving(app, [listener], tls=tls, limiter=limiter, tasks=tasks):
            log.info("serving people at %s%s", api.listen, "" if tls else " without TLS")
            yield


async def serve(app: FastAPI, sockets: Sequence[socket.socket]) -> None:
    """Answer requests until cancelled."""
    async with serving(app, sockets):
        await asyncio.Event().wait()
