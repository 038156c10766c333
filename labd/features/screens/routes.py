"""Screens of nodes: pictures, keys, and VNC over a WebSocket."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from fastapi.responses import Response
from pydantic import Field
from starlette.websockets import WebSocketDisconnect

from labd.api import models
from labd.api.models import LabName, NodeName
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import cancel_copies
from labd.drivers.node.capabilities import ViewerStream
from labd.features.screens.service import ScreenService
from labd.model.keys import MAX_KEYS
from labd.model.names import NodeRef
from labd.model.people import Thing

router = APIRouter(prefix="/labs/{lab}/nodes/{node}", tags=["screens"])

ScreensDep = Annotated[ScreenService, Depends(service(ScreenService))]

_GONE = 1001  # RFC 6455 7.4.1: going away


class Keys(models.Body):
    """What to type: the text first, then each chord."""

    text: str = Field(default="", max_length=MAX_KEYS * 2, description="US keyboard layout")
    keys: list[Annotated[str, Field(max_length=64)]] = Field(
        default=[], max_length=MAX_KEYS, description="Chords such as ctrl-alt-f2"
    )


class Typed(models.Wire):
    """What was typed."""

    keys: int = Field(description="How many keys or chords were pressed")


@router.get("/screen", response_class=Response, responses={200: {"content": {"image/png": {}}}})
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def get_screenshot(lab: LabName, node: NodeName, screens: ScreensDep) -> Response:
    """Return what the screen shows, as PNG."""
    return Response(await screens.screenshot(NodeRef(lab, node)), media_type="image/png")


@router.post("/keys")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def type_keys(lab: LabName, node: NodeName, body: Keys, screens: ScreensDep) -> Typed:
    """Press keys of the node's keyboard. Answers when the last one is released."""
    return Typed(keys=await screens.type(NodeRef(lab, node), body.text, body.keys))


@router.websocket("/vnc")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def attach_viewer(
    socket: WebSocket, lab: LabName, node: NodeName, screens: ScreensDep, closing: ClosingDep
) -> None:
    """Watch the screen: RFB (RFC 6143) in binary messages, both ways."""
    ref = NodeRef(lab, node)
    async with screens.viewer(ref) as stream:
        await socket.accept()
        if await _relay(socket, stream, closing):
            reason = "labd stops" if closing.is_set() else f"the machine of {ref} has ended"
            await socket.close(_GONE, reason)


async def _relay(socket: WebSocket, stream: ViewerStream, closing: asyncio.Event) -> bool:
    """Copy both ways until one side ends; tell whether the viewer is still there."""
    out = asyncio.create_task(_to_viewer(socket, stream))
    into = asyncio.create_task(_to_screen(socket, stream))
    stop = asyncio.create_task(closing.wait())
    tasks = (out, into, stop)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return not into.done()
    finally:
        await cancel_copies(tasks)


async def _to_viewer(socket: WebSocket, stream: ViewerStream) -> None:
    while data := await stream.read():
        try:
            await socket.send_bytes(data)
        except WebSocketDisconnect:
            return


async def _to_screen(socket: WebSocket, stream: ViewerStream) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await stream.write(message.get("bytes") or b"")
