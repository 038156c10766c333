"""What a daemon does beside its requests, and how that ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

from labd.daemon import _background


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def work() -> None:
        nonlocal lost
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        lost += 1
        await asyncio.sleep(3600)

    async with asyncio.timeout(60):
        async with AsyncExitStack() as stack:
            _background(work(), "stubborn", stack)
            await asyncio.sleep(0)
    assert lost == 1
