"""What a daemon does beside its requests, and how that ends."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from labd.composition.messaging import background
from labd.composition.sockets import listen
from labd.host.supervision import TaskSupervisor
from labd.model.errors import ConfigError


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
            background(TaskSupervisor(), "stubborn", work, stack)
            await asyncio.sleep(0)
    assert lost == 1


async def test_a_socket_whose_place_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.mkdir()
    wanted = f"cannot listen at {path}: Is a directory; move away what is there"
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=f"^{re.escape(wanted)}$"):
            listen(path, 0o600, None, stack)
    assert path.is_dir()
