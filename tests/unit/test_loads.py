"""Who waits until nothing is being loaded."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from labd.core.boot_slots import LoadQueue


async def test_one_waits_for_all() -> None:
    loads = LoadQueue(patience=30)
    await loads.quiet()
    with loads.loading():
        with loads.loading():
            waiting = asyncio.create_task(loads.quiet())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert not waiting.done(), "another one is being loaded still"
    await waiting
    with pytest.raises(RuntimeError), loads.loading():
        raise RuntimeError
    await asyncio.wait_for(loads.quiet(), 5)  # one that failed is no longer being loaded


async def test_nobody_waits_for_what_began_later() -> None:
    loads = LoadQueue(patience=30)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(loads.loading())
        waiting = asyncio.create_task(loads.quiet())
        await asyncio.sleep(0.01)
        second.enter_context(loads.loading())
        first.close()
        await asyncio.wait_for(waiting, 5)


async def test_patience_ends() -> None:
    loads = LoadQueue(patience=0.01)
    with loads.loading():
        await asyncio.wait_for(loads.quiet(), 5)
