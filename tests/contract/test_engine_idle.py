"""An idle labd looks for nothing that nobody has asked for, and sees at once what comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from labd.inventory.sqlite import SqliteInventory
from labd.model.checkpoints import SaveMode
from labd.model.classes import Student
from labd.model.lab_leases import LeaseAsk
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

_LOOKED_AT = {"lab_leases", "classes"}
_QUIET = 1.5  # seconds, more than between two looks of either
_LIMIT = 30.0  # seconds until a busy host has done what it began


class Counting:
    """An inventory that counts looks at its leases and classes."""

    def __init__(self, target: SqliteInventory) -> None:
        self._target = target
        self.looks: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in _LOOKED_AT:
            self.looks[name] += 1
        return getattr(self._target, name)

    async def quiet(self) -> None:
        """Return when nobody has looked for a while."""
        async with asyncio.timeout(_LIMIT):
            before = None
            while before != self.looks:
                before = self.looks.copy()
                await asyncio.sleep(_QUIET)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def home(tmp_path: Path, clock: Clock) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path, moment=clock) as it:
        await it.up(spec(node("a")))
        yield it


async def counted(home: FakeDaemon) -> Counting:
    """Have the next daemon's looks counted."""
    counting = Counting(home.inventory)
    home.inventory = counting  # type: ignore[assignment]
    await home.restart()
    return counting


async def told(home: FakeDaemon, line: str, after: int) -> None:
    async with asyncio.timeout(_LIMIT):
        while line not in await home.story(after):
            await asyncio.sleep(0.02)


async def test_without_a_lease_or_a_class_nobody_looks(home: FakeDaemon) -> None:
    counting = await counted(home)
    await counting.quiet()


async def test_a_lease_that_comes_is_seen(home: FakeDaemon, clock: Clock) -> None:
    counting = await counted(home)
    await counting.quiet()
    seq = await home.seq()
    await home.engine.leases.set("web", LeaseAsk(seconds=3600))
    clock.go(3600)
    await told(home, "lab.lease-ended", seq)


async def test_a_class_that_comes_is_seen(home: FakeDaemon) -> None:
    await home.ok(home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
    counting = await counted(home)
    await counting.quiet()
    seq = await home.seq()
    await home.engine.classes.start("x", "c", [Student(name="ann")], settings={})
    await told(home, "class.ready x", seq)
    await home.engine.classes.destroy("x")
    await told(home, "class.destroyed x", seq)
    await counting.quiet()
