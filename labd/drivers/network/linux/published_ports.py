"""Ports of the host that lead to nodes of labs (`drivers.network.port.PublishedPorts`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable

from labd.host.supervision import TaskSupervisor, cancel_all
from labd.model.errors import InputError, LabdError
from labd.model.publish import endpoint

log = logging.getLogger(__name__)

Dial = Callable[[], Awaitable[socket.socket]]
Relay = Callable[[socket.socket, socket.socket], None]

# Each takes two threads. More than that at one port of a training lab is somebody's mistake.
_CONNECTIONS = 128
_BACKLOG = 64
_PAUSE = 0.2  # seconds before accept is tried again when the process has no descriptors left
_ADVICE = "choose another one, or 0 to have one chosen"


class HostPublishedPorts:
    """Opens ports.

    Args:
        relay: Copies between two sockets until both ways have ended and closes them; it is run
            in a thread, so that no amount of bytes holds up the loop.
        tasks: Runs what accepts.
    """

    def __init__(self, relay: Relay, tasks: TaskSupervisor | None = None) -> None:
        self._relay = relay
        self._tasks = tasks or TaskSupervisor()

    def open(self, address: str, port: int, dial: Dial) -> HostPublishedPort:
        """Listen at a port; see the port of the engine."""
        return HostPublishedPort(_listen(address, port), dial, self._relay, self._tasks)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Connections of an earlier life that the kernel still remembers are no reason to refuse.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        where = endpoint(address, port)
        if error.errno == errno.EADDRINUSE:
            message = f"port {where} of the host is in use; {_ADVICE}"
        elif error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            message = f"{address} is no address of this host; write 127.0.0.1, or one of `ip addr`"
        else:
            message = f"port {where} of the host cannot be had ({os.strerror(error.errno or 0)})"
        raise InputError(message, address=address, port=port) from error
    return listener


class HostPublishedPort:
    """One port, and the connections that came through it."""

    def __init__(
        self, listener: socket.socket, dial: Dial, relay: Relay, tasks: TaskSupervisor
    ) -> None:
        self._listener = listener
        self._dial = dial
        self._relay = relay
        self._port = int(listener.getsockname()[1])
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor = tasks
        self._name = f"port {self._port}"
        self._accepting = tasks.supervise(self._name, self._accept)

    @property
    def port(self) -> int:
        """The number of the port."""
        return self._port

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                caller, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("port %d: %s", self._port, error)
                await asyncio.sleep(_PAUSE)
                continue
            if len(self._tasks) + len(self._pairs) >= _CONNECTIONS:
                _reset(caller)
                continue
            task = self._supervisor.spawn(self._name, self._lead(caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _lead(self, caller: socket.socket) -> None:
        try:
            way = await self._dial()
        except LabdError as error:
            log.info("port %d leads nowhere: %s", self._port, error)
            _reset(caller)
            return
        except BaseException:
            caller.close()
            raise
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (caller, way)
        self._pairs.add(pair)

        def run() -> None:
            try:
                self._relay(caller, way)
            finally:
                self._pairs.discard(pair)

        try:
            threading.Thread(target=run, name=f"door {self._port}", daemon=True).start()
        except RuntimeError as error:  # no more threads
            log.warning("port %d: %s", self._port, error)
            self._pairs.discard(pair)
            _reset(caller)
            way.close()

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        await cancel_all([self._accepting, *self._tasks])
        self._listener.close()
        for pair in list(self._pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _reset(caller: socket.socket) -> None:
    """Refuse a connection that was accepted: RST instead of an empty answer (socket(7))."""
    with contextlib.suppress(OSError):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
