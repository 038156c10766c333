"""Who waits until nothing is being loaded."""

from __future__ import annotations

import asyncio

import pytest

from labd.engine.loads import Loads


async def test_one_waits_for_all() -> None:
    loads = Loads(patience=30)
    await loads.rest()
    with loads.one():
        with loads.one():
            waiting = asyncio.create_task(loads.rest())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert not waiting.done(), "another one is being loaded still"
    await waiting
    with pytest.raises(RuntimeError), loads.one():
        raise RuntimeError
    await asyncio.wait_for(loads.rest(), 5)  # one that failed is no longer being loaded


async def test_patience_ends() -> None:
    loads = Loads(patience=0.01)
    with loads.one():
        await asyncio.wait_for(loads.rest(), 5)
