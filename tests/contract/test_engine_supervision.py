"""A fault of labd in a loop of the engine: it is told, and the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from labd.model.checkpoints import SaveMode
from labd.model.events import Event
from labd.model.lab_leases import LeaseAsk
from labd.model.machine import GuestEvent, GuestEventKind
from labd.model.plugins import PluginChange
from labd.model.records import OperationKind
from labd.model.states import LabState, NodeState, PluginState
from tests.fakes.daemon import Clock, FakeDaemon, engine_over_fakes
from tests.fakes.labs import LIMIT, node, spec

LAB = spec(node("a"))
H = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def home(tmp_path: Path, clock: Clock) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path, moment=clock) as it:
        yield it


async def failed(home: FakeDaemon, task: str) -> Event:
    """Return the first event that tells of a fault in a task."""
    async with asyncio.timeout(LIMIT):
        seq = 0
        while True:
            for event in await home.inventory.events(seq, 1000):
                seq = event.seq
                said = event.draft
                if said.type == "host.task-failed" and said.data["task"] == task:
                    return event
            await home.inventory.wait_events(seq)


async def findings(home: FakeDaemon) -> list[str]:
    return [f["text"] for f in await home.engine.host.findings() if f["name"] == "tasks"]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await holds():
            await asyncio.sleep(0.01)


async def test_nothing_has_failed(home: FakeDaemon) -> None:
    assert await findings(home) == ["no loop of labd has failed"]


async def test_leases_go_on_ending(home: FakeDaemon, clock: Clock) -> None:
    await home.up(LAB, lease=LeaseAsk(seconds=H))
    home.crash.faults["lab_leases"] = 1
    event = await failed(home, "leases")
    data = event.draft.data
    assert data["error"] == "ZeroDivisionError: a bug in lab_leases"
    assert (data["new"], data["failures"]) == (1, 1)
    clock.go(2 * H)

    async def stopped() -> bool:
        return (await home.lab()).state is LabState.STOPPED

    await until(stopped)
    (text,) = await findings(home)
    assert text.startswith("leases has failed once at ")
    assert "(ZeroDivisionError: a bug in lab_leases); it runs" in text


@pytest.mark.parametrize(
    ("task", "call"),
    [("classes", "classes"), ("memory", "read"), ("cgroups", "hold"), ("pools", "pools")],
)
async def test_a_loop_goes_on_after_faults(home: FakeDaemon, task: str, call: str) -> None:
    await home.up(LAB)
    if task == "pools":  # it looks only where there is one
        await home.ok(home.engine.checkpoints.save("web", "c", mode=SaveMode.LIVE, message=""))
        await home.engine.pools.warm("c", 1)
        await home.filled()
    home.crash.faults[call] = 3
    if task == "cgroups":  # it looks where something has changed
        await home.act(OperationKind.RESTART)
    event = await failed(home, task)
    assert event.draft.data["error"] == f"ZeroDivisionError: a bug in {call}"

    async def looked_again() -> bool:
        return home.crash.faults[call] == 0

    await until(looked_again)
    (text,) = await findings(home)
    assert text.startswith(f"{task} has failed 3 times since ")


async def test_a_lease_that_meets_a_fault_keeps_no_other_from_ending(
    home: FakeDaemon, clock: Clock
) -> None:
    await home.up(LAB, "one", lease=LeaseAsk(seconds=H))
    await home.up(LAB, "two", lease=LeaseAsk(seconds=H))
    clock.go(2 * H)
    home.crash.faults["lab_lease"] = 1
    await home.engine.leases.tick()
    assert "lab.lease-ended" in await home.story()


async def test_a_watcher_that_meets_a_fault_hears_the_next_event(home: FakeDaemon) -> None:
    await home.up(LAB)
    key = await home.key("a")
    home.crash.faults["node_by_key"] = 1
    home.hypervisor.told(
        GuestEvent(key=key, kind=GuestEventKind.WATCHDOG, time=1.0, data={"action": "none"})
    )
    await failed(home, "watcher")
    home.host.die(key)
    await home.until("a", NodeState.CRASHED)


async def test_changes_of_plugins_are_told_after_a_fault(home: FakeDaemon) -> None:
    await home.engine.plugins.start()
    bad: object = {"no": "text"}.keys()
    state = PluginState.BACKOFF
    home.plugins.told(PluginChange(name="hook", state=state, reason=bad))  # type: ignore[arg-type]
    await failed(home, "plugins")
    home.plugins.told(PluginChange(name="hook", state=state, status=1))

    async def told() -> bool:
        return "plugin.crashed hook" in await home.story()

    await until(told)
