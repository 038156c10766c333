"""`connect.sock`: connections into labs, handed out as open descriptors.

    -> {"lab": "web", "node": "server", "port": 22}             one line of JSON
    -> {"lab": "web", "host": "10.0.0.5", "port": 80}
    <- {"ok": true}                                             with the descriptor (SCM_RIGHTS)
    <- {"code": …, "message": …, "details": {…}}                or why not

The bytes then flow between caller and kernel, and labd is out of the way: this is as quick as a
connection made inside the lab. Who may connect to the socket is an administrator, as on `api.sock`;
the descriptor gives no more than they have anyway. A WebSocket serves all others: `routes/ways.py`.
Either is on record as the same action, before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Mapping
from typing import Self

from labd.api import problems
from labd.api.audit import Audit
from labd.api.authenticators import Peer
from labd.api.callers import Access
from labd.features.connect.service import ConnectService
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.model.errors import InputError, LabdError
from labd.model.names import NodeRef
from labd.model.people import Asked, Role

log = logging.getLogger(__name__)

_LIMIT = 4096  # bytes of a request
_PATIENCE = 5.0  # seconds to write it
_BACKLOG = 128
_NAME = 64  # characters of a name on record
_MADE = 101  # the status of a WebSocket that was opened
_FORM = 'send one line like {"lab": "web", "node": "server", "port": 22}'


class ConnectSocket:
    """Answers while its block runs.

    Args:
        connect: Makes the connections.
        access: Keeps the record.
        listener: A unix socket that is bound and has its mode; it is closed at the end.
        tasks: Runs what answers.
    """

    def __init__(
        self,
        connect: ConnectService,
        access: Access,
        listener: socket.socket,
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self._connect = connect
        self._audit = Audit(access)
        self._listener = listener
        self._supervisor = tasks or TaskSupervisor()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._keep(self._supervisor.supervise("ways.sock", self._accept))
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_all(self._tasks)
        self._listener.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                caller, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # no descriptors left, for example
                log.warning("ways: %s", error)
                await asyncio.sleep(0.2)
                continue
            caller.setblocking(False)
            self._keep(self._supervisor.spawn("ways.sock", self._serve(caller)))

    async def _serve(self, caller: socket.socket) -> None:
        peer = Peer.of(caller)
        name = "administrator" if peer is None else f"user {peer.name}"
        asked = Asked(actor=name, role=Role.ADMINISTRATOR, reads=False)
        with caller:
            try:
                way = await self._make(await _read(caller), asked)
            except LabdError as error:
                await self._audit.record(asked, "connect.sock", int(problems.status_of(error)))
                answer = {
                    "code": error.code,
                    "message": error.message,
                    "details": dict(error.details),
                }
                with contextlib.suppress(OSError):
                    _send(caller, answer)
                return
            with way, contextlib.suppress(OSError):
                await self._audit.record(asked, "connect.sock", _MADE)
                _send(caller, {"ok": True}, way)

    async def _make(self, request: dict[str, object], asked: Asked) -> socket.socket:
        lab, node, host = (request.get(key, "") for key in ("lab", "node", "host"))
        port = request.get("port")
        if (
            set(request) - {"lab", "node", "host", "port"}
            or not isinstance(lab, str)
            or not isinstance(node, str)
            or not isinstance(host, str)
            or not isinstance(port, int)
            or bool(node) == bool(host)
            or not (lab + node + host).isprintable()  # half a surrogate pair fits in no database
        ):
            raise InputError(f"that is no request for a way: {_FORM}")
        asked.action = "attach_node_port" if node else "attach_host_port"
        asked.about = f"lab {lab[:_NAME]}/{(node or host)[:_NAME]}"
        asked.lab, asked.node = lab[:_NAME], node[:_NAME]
        if node:
            return await self._connect.to_node(NodeRef(lab, node), port)
        return await self._connect.to_host(lab, host, port)


async def _read(caller: socket.socket) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    data = b""
    try:
        async with asyncio.timeout(_PATIENCE):
            while b"\n" not in data and len(data) <= _LIMIT:
                chunk = await loop.sock_recv(caller, _LIMIT)
                if not chunk:
                    break
                data += chunk
        found = json.loads(data)
    except (TimeoutError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"that is no request for a way: {_FORM}") from error
    if not isinstance(found, dict):
        raise InputError(f"that is no request for a way: {_FORM}")
    return found


def _send(
    caller: socket.socket, answer: Mapping[str, object], way: socket.socket | None = None
) -> None:
    """Send a line, and a descriptor with its first byte (unix(7)).

    A fresh unix socket has room for a line, so that this never has to wait.
    """
    line = json.dumps(answer, default=str).encode() + b"\n"
    fds = [way.fileno()] if way is not None else []
    socket.send_fds(caller, [line], fds)
