"""Whom a change wakes: those who wait for its lab, and those who wait for any."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from labd.core.state_writer import StateWriter
from labd.inventory.sqlite import SqliteInventory
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.records import NodeRecord
from labd.model.states import NodeState
from tests.contract.test_inventory import NOW, a_lab, a_node

LABS = 50


class Counting:
    """An inventory that counts who looks at the nodes of which lab."""

    def __init__(self, target: SqliteInventory) -> None:
        self._target = target
        self.looks: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def node(self, lab: str, name: str) -> NodeRecord | None:
        self.looks[lab] += 1
        return await self._target.node(lab, name)


@pytest.fixture
async def inventory() -> AsyncIterator[Counting]:
    opened = await SqliteInventory.open(Path(":memory:"), clock=lambda: NOW)
    async with opened.transaction() as tx:
        for number in range(LABS):
            await tx.put_lab(a_lab(f"lab{number}", f"key{number:03}"))
            await tx.put_node(a_node(number=number, lab=f"lab{number}"))
    yield Counting(opened)
    await opened.close()


def ref(number: int) -> NodeRef:
    return NodeRef(f"lab{number}", "n0")


async def settled(inventory: Counting) -> None:
    """Wait until nobody looks any more."""
    before = -1
    while before != inventory.looks.total():
        before = inventory.looks.total()
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)


async def test_a_change_wakes_the_waiters_of_its_lab_alone(inventory: Counting) -> None:
    state_writer = StateWriter(inventory, lambda: NOW)
    waiters = [
        asyncio.create_task(state_writer.wait_node(ref(number), {NodeState.READY}))
        for number in range(LABS)
    ]
    anything = state_writer.anything_changed()
    await settled(inventory)
    assert inventory.looks == Counter({f"lab{number}": 1 for number in range(LABS)})

    inventory.looks.clear()
    await state_writer.move(ref(7), NodeState.RUNNING)
    await settled(inventory)
    # One look of the move itself, one of the only waiter whom it concerns.
    assert inventory.looks == Counter({"lab7": 2})
    assert anything.is_set()

    inventory.looks.clear()
    await state_writer.move(ref(7), NodeState.READY)
    found = await asyncio.wait_for(waiters[7], 10)
    assert found is not None
    assert found.state is NodeState.READY
    assert set(inventory.looks) == {"lab7"}

    for number in set(range(LABS)) - {7}:
        await state_writer.move(ref(number), NodeState.READY)
    done = await asyncio.wait_for(asyncio.gather(*waiters), 10)
    assert {node.lab for node in done if node is not None} == {
        f"lab{number}" for number in range(LABS)
    }


async def test_what_concerns_no_lab_wakes_only_who_waits_for_anything(inventory: Counting) -> None:
    state_writer = StateWriter(inventory, lambda: NOW)
    waiter = asyncio.create_task(state_writer.wait_node(ref(1), {NodeState.READY}))
    anything = state_writer.anything_changed()
    await settled(inventory)
    inventory.looks.clear()
    await state_writer.emit(EventDraft(type=EventType.DAEMON_STOPPED))
    await settled(inventory)
    assert anything.is_set()
    assert not inventory.looks
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
