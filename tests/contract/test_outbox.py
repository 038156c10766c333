"""What waits for a broker that is away, on the real inventory: bounded, and told before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from labd.events.outbox import OutboxGuard, OutboxLimits
from labd.host.doctor import Level
from labd.inventory.sqlite import SqliteInventory
from labd.model.events import EventDraft, EventType
from tests.event_contract import unpromised

DAY = 86_400.0


class Home:
    """An inventory whose clock the test sets, and its guard."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.inventory: SqliteInventory
        self.guard: OutboxGuard

    def clock(self) -> str:
        now = datetime.fromtimestamp(self.now, UTC)
        return now.isoformat(timespec="microseconds").replace("+00:00", "Z")

    async def say(self, count: int) -> None:
        for number in range(count):
            async with self.inventory.transaction() as tx:
                await tx.emit(EventDraft(type=EventType.NODE_READY, data={"n": number}))

    async def told(self) -> list[tuple[str, object, object]]:
        found = []
        first = await self.inventory.first_seq()
        for event in await self.inventory.events(first - 1, 100_000):
            data = event.draft.data
            if event.draft.type is EventType.OUTBOX_FILLING:
                found.append(("filling", data["waiting"], data["age"]))
            elif event.draft.type is EventType.OUTBOX_DROPPED:
                found.append(("dropped", data["first"], data["last"]))
        return found


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    it = Home()
    it.inventory = await SqliteInventory.open(
        tmp_path / "state.db", clock=it.clock, keep_events=20, copied=False
    )
    it.guard = OutboxGuard(it.inventory, OutboxLimits(events=100, age=10 * DAY), lambda: it.now)
    yield it
    said = await it.inventory.events(0, 100_000)
    kinds = ((str(event.draft.type), event.draft.data) for event in said)
    assert not unpromised(item for item in kinds if item[0].startswith("outbox"))
    await it.inventory.close()


async def test_too_many_are_told_at_half_and_given_up_in_the_end(home: Home) -> None:
    await home.say(49)
    await home.guard.tick()
    assert await home.told() == []
    assert home.guard.finding().level is Level.OK
    await home.say(1)
    await home.guard.tick()
    await home.guard.tick()
    assert await home.told() == [("filling", 50, 0)], "once"
    found = home.guard.finding()
    assert found.level is Level.WARN
    assert "at 100 events or 10 days the oldest are given up" in found.text
    assert "outbox_events" in found.advice
    await home.say(2_000)
    await home.guard.tick()
    assert await home.told() == [("dropped", 1, 2051 - 90)]
    first, last = await home.inventory.first_seq(), await home.inventory.last_seq()
    assert await home.inventory.published_seq() == 1961
    assert (first, last) == (1962, 2052), "what waits still is there, and no more"
    kept = await home.inventory.events(first - 1, 10_000)
    assert [event.seq for event in kept] == list(range(first, last + 1))


async def test_the_disk_is_bounded_however_long_the_broker_is_away(home: Home) -> None:
    for _ in range(12):
        await home.say(60)
        await home.guard.tick()
    last, first = await home.inventory.last_seq(), await home.inventory.first_seq()
    assert last > 700
    assert last - first < 200
    rows = await home.inventory._database.rows("SELECT count(*) FROM events")
    assert rows[0][0] == last - first + 1


async def test_too_old_ones_are_told_at_half_and_given_up_in_the_end(home: Home) -> None:
    await home.say(5)
    home.now += 4 * DAY
    await home.say(5)
    home.now += DAY
    await home.guard.tick()
    assert await home.told() == [("filling", 10, 5 * DAY)]
    assert "the oldest for 5.0 days" in home.guard.finding().text
    home.now += 5 * DAY + 1
    await home.guard.tick()
    assert await home.inventory.published_seq() == 5, "the others are younger than nine days"
    assert ("dropped", 1, 5) in await home.told()
    await home.guard.tick()
    assert [item[0] for item in await home.told()] == ["filling", "dropped"]


async def test_a_broker_that_is_back_ends_the_warning(home: Home) -> None:
    await home.say(60)
    await home.guard.tick()
    assert home.guard.finding().level is Level.WARN
    await home.inventory.mark_published(await home.inventory.last_seq())
    await home.guard.tick()
    assert home.guard.finding().level is Level.OK
    await home.say(60)
    await home.guard.tick()
    assert (await home.told())[-1] == ("filling", 60, 0)
    assert [item[0] for item in await home.told()] == ["filling", "filling"]
