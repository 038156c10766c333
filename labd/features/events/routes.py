"""Events: replay of what is kept, and a stream of what comes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from labd.api.models import OPTIONAL_NAME_PATTERN, Wire
from labd.api.policy import AuthorisationPolicy, PolicyDep
from labd.api.problems import EventsPruned
from labd.api.rules import Scope, requires
from labd.api.services import ClosingDep, service
from labd.api.waiting import until_closing
from labd.features.events.service import EventStream
from labd.model.errors import LabdError
from labd.model.events import TYPE_PREFIX, Event


class Events(Wire):
    """Events, as CloudEvents 1.0 records."""

    events: list[dict[str, Any]]
    first: int = Field(description="The lowest seq that is kept")
    last: int = Field(description="The highest seq; 0 when there was no event yet")
    next: int = Field(description="`after` of the next page; equals `last` when there is no more")


router = APIRouter(prefix="/events", tags=["events"])

EventsDep = Annotated[EventStream, Depends(service(EventStream))]
log = logging.getLogger(__name__)

_KEEP_ALIVE = 15.0  # seconds of silence after which a stream gets a blank line
_SCAN = 500  # events read at once
_SCAN_LIMIT = 20_000  # events looked at for one page; a filter may let few of them pass
_STREAM = "application/x-ndjson"
_SEQ_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a reader wants, of those that they may see; empty means all."""

    policy: AuthorisationPolicy
    lab: str = ""
    type: str = ""

    def wants(self, event: Event) -> bool:
        """True if an event passes."""
        draft = event.draft
        if self.lab and draft.lab != self.lab:
            return False
        pattern = self.type.removeprefix(TYPE_PREFIX)
        if pattern and not fnmatchcase(str(draft.type), pattern):
            return False
        return self.policy.event(event)


@router.get(
    "",
    response_model=Events,
    responses={200: {"content": {_STREAM: {"schema": {"type": "string"}}}}},
)
@requires(Scope.EVENTS_READ, student=True)
async def list_events(
    events: EventsDep,
    closing: ClosingDep,
    policy: PolicyDep,
    after: Annotated[int | None, Query(ge=0, le=_SEQ_LIMIT, description="Seq; 0 for all")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    *,
    follow: Annotated[bool, Query(description="Stream JSON Lines as they come")] = False,
    lab: Annotated[str, Query(pattern=OPTIONAL_NAME_PATTERN)] = "",
    type: Annotated[
        str, Query(pattern=r"^[a-z.*-]{0,64}$", description="Such as node.crashed or node.*")
    ] = "",
) -> Events | Response:
    """Return events after a seq, in order.

    With `follow`, a stream that begins after `after`, or with the present when that is not given;
    a blank line is a sign of life. Events that are not kept any more are answered by the problem
    `events_pruned`, whose details have `first`.
    """
    first, last = await events.bounds()
    if after is not None and after + 1 < first:
        raise EventsPruned(
            f"events up to {first - 1} are not kept any more: ask with after={first - 1}, and read "
            "the present state of what you missed",
            first=first,
            last=last,
        )
    wanted = Filter(policy, lab, type)
    if follow:
        lines = _follow(events, closing, last if after is None else after, wanted)
        return StreamingResponse(lines, media_type=_STREAM)
    return await _page(events, first - 1 if after is None else after, limit, wanted)


async def _page(stream: EventStream, after: int, limit: int, wanted: Filter) -> Events:
    """Collect one page; it ends early when a filter lets nothing pass for long."""
    start, events = after, list[dict[str, object]]()
    while len(events) < limit and after - start < _SCAN_LIMIT:
        batch = await stream.after(after, _SCAN)
        if not batch:
            break
        for event in batch:
            after = event.seq
            if wanted.wants(event):
                events.append(event.cloudevent())
                if len(events) == limit:
                    break
    first, last = await stream.bounds()
    return Events(events=events, first=first, last=last, next=after)


async def _follow(
    events: EventStream, closing: asyncio.Event, after: int, wanted: Filter
) -> AsyncIterator[bytes]:
    """Give events for ever; the stream ends when labd stops or events were pruned meanwhile."""
    try:
        while not closing.is_set():
            for event in await events.after(after, _SCAN):
                if event.seq != after + 1:
                    log.warning("a reader of events fell behind; its stream ends at %d", after)
                    return
                after = event.seq
                if wanted.wants(event):
                    line = json.dumps(event.cloudevent(), separators=(",", ":"))
                    yield line.encode() + b"\n"
            if await until_closing(events.wait(after), closing, _KEEP_ALIVE) is None:
                yield b"\n"
    except LabdError as error:
        log.warning("a stream of events ended: %s", error)
