"""Waiting that ends when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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
