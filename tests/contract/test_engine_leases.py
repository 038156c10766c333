"""Leases carried out by an engine on fakes, whose clocks the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.model.errors import InputError, NotFound
from labd.model.lab_leases import LeaseAsk, LeaseStage
from labd.model.records import OperationKind
from labd.model.states import LabState
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import node, spec

K = OperationKind
LAB = spec(node("a"))
H = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def home(tmp_path: Path, clock: Clock) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path, moment=clock) as it:
        yield it


async def told(home: FakeDaemon, after: int) -> list[str]:
    return [line for line in await home.story(after) if line.startswith("lab.lease")]


async def settled(home: FakeDaemon) -> None:
    """Return when the operation that a tick began has ended."""
    await home.engine.leases.tick()
    await home.engine.leases.acted()
    for operation in await home.inventory.operations(running=True):
        await home.done(home.engine.operations.get(operation.id))


async def test_warned_stopped_destroyed(home: FakeDaemon, clock: Clock) -> None:
    seq = await home.seq()
    await home.up(LAB, lease=LeaseAsk(seconds=H, keep=H))
    clock.go(H - 100)
    await home.engine.leases.tick()
    await home.engine.leases.tick()
    assert await told(home, seq) == ["lab.lease-set", "lab.lease-warning"]
    clock.go(99)
    await home.engine.leases.tick()
    assert (await told(home, seq))[2:] == ["lab.lease-warning"]
    assert (await home.lab()).state is LabState.RUNNING
    clock.go(1)
    await home.engine.leases.tick()
    assert (await told(home, seq))[3:] == ["lab.lease-ended"]
    await settled(home)
    assert (await home.lab()).state is LabState.STOPPED
    clock.go(H - 1)
    await settled(home)
    assert (await home.engine.leases.get("web")).lease.stage is LeaseStage.ENDED
    clock.go(1)
    await settled(home)
    await home.check_nothing()
    assert await home.engine.leases.all() == []


async def test_a_jump_of_the_clock_ends_nothing(home: FakeDaemon, clock: Clock) -> None:
    await home.up(LAB, lease=LeaseAsk(seconds=H))
    clock.go(60, jump=10 * H)
    await settled(home)
    assert (await home.lab()).state is LabState.RUNNING
    view = await home.engine.leases.get("web")
    assert (view.left, view.ends) == (H - 60, "2026-01-31T23:00:00Z")
    events = [e.draft for e in await home.inventory.events(0, 1000)]
    assert [e.data["cause"] for e in events if e.type == "lab.lease-set"] == ["set", "clock"]


async def test_a_restarted_daemon_ends_what_is_over(home: FakeDaemon, clock: Clock) -> None:
    await home.up(LAB, lease=LeaseAsk(seconds=H))
    clock.go(H)
    await home.engine.leases.tick()
    await home.restart()  # the end was written, the lab was not stopped yet
    await settled(home)
    assert (await home.lab()).state is LabState.STOPPED


async def test_a_lab_that_is_started_again_is_stopped_again(home: FakeDaemon, clock: Clock) -> None:
    await home.up(LAB, lease=LeaseAsk(seconds=H))
    clock.go(H)
    await home.engine.leases.tick()
    await settled(home)
    await home.engine.leases.extend("web", H)
    await home.act(K.START)
    await settled(home)
    assert (await home.lab()).state is LabState.RUNNING
    await home.engine.leases.cancel("web")
    clock.go(100 * H)
    await settled(home)
    assert (await home.lab()).state is LabState.RUNNING


async def test_a_lease_that_is_over_is_refused_and_nothing_made(home: FakeDaemon) -> None:
    with pytest.raises(InputError, match="in the past"):
        home.engine.leases.of("web", LeaseAsk(seconds=-1))
    with pytest.raises(NotFound):
        await home.engine.leases.set("web", LeaseAsk(seconds=H))
    await home.check_nothing()
