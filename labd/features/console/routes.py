"""Nodes: how they are, what they said, and their serial line."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, WebSocket
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field
from starlette.websockets import WebSocketDisconnect

from labd.api import models
from labd.api.callers import CallerDep
from labd.api.models import LabName, NodeName
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.drivers.node.capabilities import Console
from labd.features.console.service import ConsoleService
from labd.features.labs import LabOverview, Node, bare_spec, show_node
from labd.model.errors import LabdError
from labd.model.names import NodeRef
from labd.model.people import Role, Thing

router = APIRouter(prefix="/labs/{lab}/nodes/{node}", tags=["nodes"])

ConsoleDep = Annotated[ConsoleService, Depends(service(ConsoleService))]
OverviewDep = Annotated[LabOverview, Depends(service(LabOverview))]

# RFC 6455 7.4.1: going away; and internal error.
_GONE, _FAILED = 1001, 1011
_REASON_LIMIT = 120  # RFC 6455 5.5: a control frame holds 125 bytes, 2 of them the code


@router.get("")
@requires(Scope.LABS_READ, about=Thing.LAB, student=True)
async def get_node(
    lab: LabName, node: NodeName, console: ConsoleDep, overview: OverviewDep, who: CallerDep
) -> Node:
    """Return one node; to a student without what the template says of its inside."""
    record = await console.node(NodeRef(lab, node))
    spec = (await overview.get(lab)).lab.spec
    return show_node(record, bare_spec(spec) if who.role is Role.STUDENT else spec)


@router.get("/log", response_class=PlainTextResponse)
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def get_node_log(lab: LabName, node: NodeName, console: ConsoleDep) -> Response:
    """Return what is kept of the serial output, at most 1 MiB, as the guest sent it."""
    log = await console.log(NodeRef(lab, node))
    return Response(log, media_type="text/plain; charset=utf-8")


class Line(models.Wire):
    """A line of a node."""

    source: str = Field(description="console, or qemu for QEMU's own messages")
    position: int = Field(description="Grows from line to line of one source")
    time: str
    text: str = Field(description="As it came, without line ends: not safe for a terminal")
    whole: bool = Field(description="False for a line that is not finished")


class Lines(models.Wire):
    """Lines of a node, by time."""

    lines: list[Line]


@router.get("/lines")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def get_node_lines(
    lab: LabName,
    node: NodeName,
    console: ConsoleDep,
    after: Annotated[int, Query(ge=0, lt=1 << 64, description="Console lines behind it")] = 0,
) -> Lines:
    """Return what the node said on its serial line, and its QEMU, with the time of each line."""
    found = await console.lines(NodeRef(lab, node), after)
    return Lines(
        lines=[
            Line(
                source=source,
                position=line.position,
                time=line.time,
                text=line.text,
                whole=line.whole,
            )
            for source, line in found
        ]
    )


@router.websocket("/console")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def attach_console(
    socket: WebSocket, lab: LabName, node: NodeName, console: ConsoleDep, closing: ClosingDep
) -> None:
    """Attach to the serial line: binary messages both ways; several viewers at once."""
    ref = NodeRef(lab, node)
    async with console.attach(ref) as viewer:
        await socket.accept()
        code, reason = await _converse(socket, viewer, closing, str(ref))
        if code is not None:
            await socket.close(code, reason.encode()[:_REASON_LIMIT].decode(errors="ignore"))


async def _converse(
    socket: WebSocket, console: Console, closing: asyncio.Event, ref: str
) -> tuple[int | None, str]:
    """Copy both ways until one side ends; return how to close (None: the viewer has left)."""
    out = asyncio.create_task(_to_viewer(socket, console))
    into = asyncio.create_task(_to_guest(socket, console))
    stop = asyncio.create_task(closing.wait())
    tasks = {out, into, stop}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(out, into, stop, return_exceptions=True)
    if into.done() and results[1] is None:
        return None, ""
    for result in results:
        if isinstance(result, LabdError):
            return _FAILED, result.message
        if isinstance(result, Exception):
            raise result
    return _GONE, "labd stops" if closing.is_set() else f"the machine of {ref} has ended"


async def _to_viewer(socket: WebSocket, console: Console) -> None:
    while data := await console.read():
        try:
            await socket.send_bytes(data)
        except WebSocketDisconnect:
            return


async def _to_guest(socket: WebSocket, console: Console) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes") or (message.get("text") or "").encode()
        if data:
            await console.write(data)
