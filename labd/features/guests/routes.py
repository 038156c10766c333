"""Commands and files in guests, by their agents."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from labd.api import models
from labd.api.models import LabName, NodeName
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import until_closing
from labd.features.guests.service import GuestService
from labd.model.errors import DownloadFailed, InputError
from labd.model.names import NodeRef
from labd.model.people import Thing

router = APIRouter(prefix="/labs/{lab}/nodes/{node}", tags=["guests"])

GuestsDep = Annotated[GuestService, Depends(service(GuestService))]

_TIMEOUT = 600.0  # seconds
_LONGEST = 3600.0  # seconds
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

GuestPath = Annotated[
    str,
    Query(min_length=1, max_length=4096, pattern=r"^[^\x00]*$", description="As the guest has it"),
]


class Command(models.Body):
    """A command to run."""

    argv: list[Annotated[str, Field(max_length=128 << 10, pattern=r"^[^\x00]*$")]] = Field(
        min_length=1, max_length=1024, description="Program and arguments; no shell reads them"
    )
    stdin: str = Field(default="", max_length=4 << 20, description="base64")
    timeout: float = Field(default=_TIMEOUT, gt=0, le=_LONGEST, description="Seconds")


class Ended(models.Wire):
    """How a command ended."""

    status: int = Field(description="Exit status; minus the number of a signal that ended it")
    stdout: str = Field(description="base64; at most 1 MiB of it")
    stderr: str = Field(description="base64; at most 1 MiB of it")
    truncated: bool = Field(description="Whether there was more")


class Written(models.Wire):
    """A file of a guest."""

    bytes: int


@router.post("/exec")
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def execute(
    lab: LabName, node: NodeName, body: Command, guests: GuestsDep, closing: ClosingDep
) -> Ended:
    """Run a command in the guest. Answers when it has ended."""
    try:
        stdin = base64.b64decode(body.stdin, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("stdin is not base64") from error
    done = await until_closing(
        guests.execute(NodeRef(lab, node), body.argv, stdin=stdin, timeout=body.timeout),
        closing,
    )
    if done is None:
        raise DownloadFailed("labd stops; the command may still run in the guest")
    return Ended(
        status=done.status,
        stdout=base64.b64encode(done.stdout).decode(),
        stderr=base64.b64encode(done.stderr).decode(),
        truncated=done.truncated,
    )


@router.get("/file", response_class=Response, responses={200: {"content": _BINARY}})
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, takes=True, student=True)
async def read_file(
    lab: LabName, node: NodeName, path: GuestPath, guests: GuestsDep
) -> StreamingResponse:
    """Return the content of a file in the guest."""
    async with AsyncExitStack() as stack:
        content = await stack.enter_async_context(guests.read_file(NodeRef(lab, node), path))
        keep = stack.pop_all()
    return StreamingResponse(
        _all(content, keep),
        media_type="application/octet-stream",
        background=BackgroundTask(keep.aclose),
    )


async def _all(content: AsyncIterator[bytes], keep: AsyncExitStack) -> AsyncIterator[bytes]:
    async with keep:
        async for part in content:
            yield part


@router.put("/file", openapi_extra={"requestBody": {"required": True, "content": _BINARY}})
@requires(Scope.LABS_CONSOLE, about=Thing.LAB, student=True)
async def write_file(
    lab: LabName,
    node: NodeName,
    path: GuestPath,
    request: Request,
    guests: GuestsDep,
) -> Written:
    """Make or overwrite a file in the guest; a transfer that breaks off leaves a part of it."""
    try:
        count = await guests.write_file(NodeRef(lab, node), path, request.stream())
    except ClientDisconnect as error:
        raise DownloadFailed(f"the transfer of {path} broke off; send it again") from error
    return Written(bytes=count)
