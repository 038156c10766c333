"""Waiting that ends when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from starlette.websockets import WebSocketDisconnect

from labd.model.errors import LabdError

T = TypeVar("T")

# How callers and machines leave, while something is copied between them.
_LEAVING = (LabdError, OSError, RuntimeError, WebSocketDisconnect)


async def until_closing(
    work: Coroutine[Any, Any, T], closing: asyncio.Event, timeout: float | None = None
) -> T | None:
    """Return the result of `work`, or None when the server stops first or `timeout` s are over."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({task, stop}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for item in (task, stop):
            item.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


async def cancel_copies(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """End tasks that copy between a caller and a machine; raise what was a fault of labd in one."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, _LEAVING):
            raise outcome
