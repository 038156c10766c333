"""Ports of the host that lead to nodes of labs (`drivers.network.port.PublishedPorts`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from labd.host.supervision import TaskSupervisor, cancel_all
from labd.model.errors import InputError, LabdError
from labd.model.publish import Bound, ConnectionBounds, endpoint

log = logging.getLogger(__name__)

Dial = Callable[[], Awaitable[socket.socket]]


# Begins to copy between two sockets, both ways, and returns at once. When both ways have ended, the
# sockets are closed and the function is called from another thread. Its result breaks that off.
Relay = Callable[[socket.socket, socket.socket, Callable[[], None]], Callable[[], None]]

_BACKLOG = 64
_PAUSE = 0.2  # seconds before accept is tried again when the process has no descriptors left
_SHARE = 8  # of all descriptors, a quarter at most: each connection takes two
_ADVICE = "choose another one, or 0 to have one chosen"


class HostPublishedPorts:
    """Opens ports, and counts their connections.

    Args:
        relay: Passes the bytes on, outside the loop's thread: no amount of them holds up the loop.
        bounds: How many connections there may be; of the host's descriptors, they take a quarter.
        tasks: Runs what accepts.
    """

    def __init__(
        self, relay: Relay, bounds: ConnectionBounds, tasks: TaskSupervisor | None = None
    ) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = bounds.host if soft == resource.RLIM_INFINITY else min(bounds.host, soft // _SHARE)
        self._relay = relay
        self._bounds = replace(bounds, host=max(most, 1))
        self._tasks = tasks or TaskSupervisor()
        self._open: Counter[str] = Counter()  # by lab

    def open(
        self,
        address: str,
        port: int,
        dial: Dial,
        *,
        lab: str,
        refused: Callable[[Bound], None],
    ) -> HostPublishedPort:
        """Listen at a port; see the port of the engine."""
        return HostPublishedPort(
            _listen(address, port),
            dial,
            self._relay,
            Admission(self, lab, refused),
            self._tasks,
        )

    def reached(self, lab: str, of_port: int) -> Bound | None:
        """Return which bound one more connection would exceed; None if none.

        Args:
            lab: Whose it is.
            of_port: Connections that its port has.
        """
        if of_port >= self._bounds.port:
            return Bound.PORT
        if self._open[lab] >= self._bounds.lab:
            return Bound.LAB
        return Bound.HOST if self._open.total() >= self._bounds.host else None

    def count(self, lab: str, change: int) -> None:
        """Count connections of a lab that begin (1) or end (-1)."""
        self._open[lab] += change
        if not self._open[lab]:
            del self._open[lab]


class Admission:
    """Lets the connections of one port in, as long as there is room."""

    def __init__(
        self, ports: HostPublishedPorts, lab: str, refused: Callable[[Bound], None]
    ) -> None:
        self._ports = ports
        self._lab = lab
        self._refused = refused
        self._count = 0

    def admit(self) -> bool:
        """Count a connection, unless there are too many; False if it is refused."""
        reached = self._ports.reached(self._lab, self._count)
        if reached is not None:
            self._refused(reached)
            return False
        self._change(1)
        return True

    def leave(self) -> None:
        """Count a connection that has ended."""
        self._change(-1)

    def _change(self, by: int) -> None:
        self._count += by
        self._ports.count(self._lab, by)


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
        self,
        listener: socket.socket,
        dial: Dial,
        relay: Relay,
        admission: Admission,
        tasks: TaskSupervisor,
    ) -> None:
        self._listener = listener
        self._dial = dial
        self._relay = relay
        self._admission = admission
        self._port = int(listener.getsockname()[1])
        self._pairs: dict[socket.socket, Callable[[], None]] = {}  # caller -> what ends it
        self._dialing: set[socket.socket] = set()  # callers that are not passed on yet
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
            if not self._admission.admit():
                _reset(caller)
                continue
            self._dialing.add(caller)
            task = self._supervisor.spawn(self._name, self._lead(caller))
            self._tasks.add(task)
            task.add_done_callback(partial(self._led, caller))

    def _led(self, caller: socket.socket, task: asyncio.Task[None]) -> None:
        """Give up a caller that was not passed on; its task may have been cancelled unbegun."""
        self._tasks.discard(task)
        if caller in self._dialing:
            self._dialing.discard(caller)
            _reset(caller)
            self._admission.leave()

    async def _lead(self, caller: socket.socket) -> None:
        """Pass a caller on, if there is somebody to pass it on to."""
        try:
            connection = await self._dial()
        except LabdError as error:
            log.info("port %d leads nowhere: %s", self._port, error)
            return
        try:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it has gone already
            connection.close()
            return
        loop = asyncio.get_running_loop()

        def left() -> None:
            self._pairs.pop(caller, None)
            self._admission.leave()

        def closed() -> None:
            with contextlib.suppress(RuntimeError):  # the daemon has ended
                loop.call_soon_threadsafe(left)

        try:
            end = self._relay(caller, connection, closed)
        except (OSError, RuntimeError) as error:  # no more descriptors, or threads
            log.warning("port %d: %s", self._port, error)
            connection.close()
            return
        self._pairs[caller] = end
        self._dialing.discard(caller)

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        await cancel_all([self._accepting, *self._tasks])
        self._listener.close()
        for end in self._pairs.values():
            end()


def _reset(caller: socket.socket) -> None:
    """Refuse a connection that was accepted: RST instead of an empty answer (socket(7))."""
    with contextlib.suppress(OSError):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
