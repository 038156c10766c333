"""Ways into labs for callers that cannot be handed a descriptor, and the labs' SSH keys.

Binary messages carry the bytes both ways. An empty message is the end of one way (half-close), as
WebSocket has none of its own; when both ways have ended, labd closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Annotated

from fastapi import APIRouter, Depends, Query, WebSocket
from pydantic import Field
from starlette.websockets import WebSocketDisconnect

from labd.api.models import LabName, NodeName, Wire
from labd.api.policy import note
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import cancel_copies, until_closing
from labd.features.connect.service import ConnectService
from labd.model.names import NodeRef
from labd.model.people import Thing


class SshKey(Wire):
    """The SSH key pair of a lab."""

    public: str = Field(description="One line, as in authorized_keys")
    private: str = Field(description="In OpenSSH's own format")


router = APIRouter(prefix="/labs/{lab}", tags=["ways"])

ConnectDep = Annotated[ConnectService, Depends(service(ConnectService))]

Port = Annotated[int, Query(ge=1, le=65535)]
Host = Annotated[str, Query(min_length=1, max_length=253)]

_CHUNK = 1 << 16  # bytes
# RFC 6455 7.4.1: normal closure; going away.
_DONE, _GONE = 1000, 1001


@router.get("/ssh-key")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, takes=True, student=True)
async def get_ssh_key(lab: LabName, connect: ConnectDep) -> SshKey:
    """Return the key pair that every node of the lab takes."""
    found = await connect.key(lab)
    return SshKey(public=found.public, private=found.private)


@router.websocket("/nodes/{node}/connect")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def attach_node_port(
    ws: WebSocket,
    lab: LabName,
    node: NodeName,
    port: Port,
    connect: ConnectDep,
    closing: ClosingDep,
) -> None:
    """Connect to a TCP port of a node, from inside its lab."""
    way = await connect.to_node(NodeRef(lab, node), port)
    await _carry(ws, way, closing)


@router.websocket("/connect")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def attach_host_port(
    ws: WebSocket, lab: LabName, host: Host, port: Port, connect: ConnectDep, closing: ClosingDep
) -> None:
    """Connect to a node's name, or to an address inside one of the lab's subnets."""
    note(f"lab {lab}/{host[:64]}")
    way = await connect.to_host(lab, host, port)
    await _carry(ws, way, closing)


async def _carry(ws: WebSocket, way: socket.socket, closing: asyncio.Event) -> None:
    with way:
        await ws.accept()
        await until_closing(_both(ws, way), closing)
        code, reason = (_GONE, "labd stops") if closing.is_set() else (_DONE, "")
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the caller was first
            await ws.close(code, reason)


async def _both(ws: WebSocket, way: socket.socket) -> None:
    """Copy until both ways have ended, or one is broken."""
    into, out = asyncio.create_task(_into(ws, way)), asyncio.create_task(_out(ws, way))
    try:
        done, _ = await asyncio.wait({into, out}, return_when=asyncio.FIRST_COMPLETED)
        if all(task.result() for task in done):
            await asyncio.wait({into, out})
    finally:
        await cancel_copies((into, out))


async def _into(ws: WebSocket, way: socket.socket) -> bool:
    """Copy from the caller to the node; tell whether it ended in order."""
    loop = asyncio.get_running_loop()
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            return False
        data = message.get("bytes") or (message.get("text") or "").encode()
        try:
            if not data:
                way.shutdown(socket.SHUT_WR)
                return True
            await loop.sock_sendall(way, data)
        except OSError:
            return False


async def _out(ws: WebSocket, way: socket.socket) -> bool:
    """Copy from the node to the caller; tell whether it ended in order."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(way, _CHUNK)
            await ws.send_bytes(data)
        except (OSError, WebSocketDisconnect):
            return False
        if not data:
            return True
