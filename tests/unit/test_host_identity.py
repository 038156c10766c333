"""Processes that are dead in part, or do not die: real ones of the kernel's."""

from __future__ import annotations

import asyncio

import pytest

from labd.host import identity
from tests.unkillable import leaderless, unkillable


async def test_one_that_does_not_end_has_a_deadline() -> None:
    async with unkillable() as (process, let_go):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(identity.end(process, grace=0, deadline=0.3), 20)
        assert identity.is_alive(process)
        let_go.set()
        await asyncio.wait_for(identity.end(process, grace=0, deadline=20), 30)
        assert not identity.is_alive(process)


async def test_a_process_without_its_first_thread_lives() -> None:
    async with leaderless() as child:
        async with asyncio.timeout(20):
            while (found := identity.read_stat(child.pid)) is None or found[0] != "L":
                await asyncio.sleep(0.01)
        process = identity.identify(child.pid)
        assert process is not None
        assert identity.is_alive(process)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(identity.watch_exit(process), 0.1)
        await identity.end(process, grace=0, deadline=20)
        assert identity.identify(child.pid) is None
