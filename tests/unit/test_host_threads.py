"""Work in threads of its own, which nobody can stop half way."""

from __future__ import annotations

import asyncio
import threading

import pytest

from labd.host.threads import in_thread


@pytest.mark.parametrize("times", [1, 3])
async def test_whoever_cancels_finds_the_work_ended(times: int) -> None:
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(times):
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
