"""Captures of packets, as pcapng over a WebSocket.

Binary messages are the file. The caller ends it by any text message; labd then sends the last
block, and a text message that tells how it went, and closes. It does the same when a capture ends
by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from labd.api.models import LabName
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import cancel_copies
from labd.drivers.network.port import PacketCapture
from labd.features.capture.service import CaptureService
from labd.features.links import TARGET
from labd.model.people import Thing

router = APIRouter(prefix="/labs/{lab}", tags=["captures"])

CapturesDep = Annotated[CaptureService, Depends(service(CaptureService))]

_MAX_COUNT = 1 << 31
_DONE = 1000  # RFC 6455 7.4.1: normal closure

Target = Annotated[str, Query(pattern=TARGET, description="A link, a network, or NODE/NIC")]
Filter = Annotated[str, Query(max_length=2000, description="pcap-filter(7)")]
Count = Annotated[int, Query(ge=0, le=_MAX_COUNT, description="Frames; 0: no limit")]


@router.websocket("/capture")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB)
async def attach_capture(
    socket: WebSocket,
    lab: LabName,
    target: Target,
    captures: CapturesDep,
    closing: ClosingDep,
    filter: Filter = "",
    count: Count = 0,
) -> None:
    """Capture at a link, a network or a NIC."""
    opened = captures.open(lab, target, filter=filter, count=count)
    async with opened as capture:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the caller has gone
            await _stream(socket, capture, closing)


async def _stream(socket: WebSocket, capture: PacketCapture, closing: asyncio.Event) -> None:
    """Copy until the capture ends; whatever ends it is made its end first."""
    tasks = [
        asyncio.create_task(_hear(socket, capture)),
        asyncio.create_task(_stop_with(closing, capture)),
        asyncio.create_task(_copy(socket, capture)),
    ]
    try:
        # A caller that has gone takes nothing more, so that copying may never end.
        await asyncio.wait(tasks[::2], return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done() and tasks[0].result():
            await tasks[2]
        elif tasks[0].done():
            return
    finally:
        await cancel_copies(tasks)
    tail, told = capture.end()
    await socket.send_bytes(tail)
    await socket.send_json(asdict(told))
    await socket.close(_DONE)


async def _hear(socket: WebSocket, capture: PacketCapture) -> bool:
    """Wait for the caller's word; tell whether it is still there."""
    message = await socket.receive()
    capture.stop("asked")
    return bool(message["type"] != "websocket.disconnect")


async def _stop_with(closing: asyncio.Event, capture: PacketCapture) -> None:
    await closing.wait()
    capture.stop("labd stops")


async def _copy(socket: WebSocket, capture: PacketCapture) -> None:
    while data := await capture.read():
        await socket.send_bytes(data)
