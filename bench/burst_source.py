"""The process that `bench.burst` watches: labd's own inventory, outbox, publisher and broker.

    python -m bench.burst_source FOLDER RATE SECONDS

It prints one line of JSON when it is ready, waits for a line on stdin, makes events, and ends when
stdin does. What makes events is no guest here: ten nodes move in one transaction, as they do in an
operation on a lab.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from labd.events.accounts import BrokerUser, new_password
from labd.events.broker import ManagedBroker
from labd.events.messages import Topics
from labd.events.publisher import Publisher
from labd.inventory import SqliteInventory
from labd.model.events import EventDraft, EventType
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import LabSpec
from labd.model.states import LabState, NodeState

GUESTS = 10
LAB = "bench"


async def main(folder: Path, rate: int, seconds: float) -> None:
    """Make `rate` events a second."""
    inventory = await SqliteInventory.open(folder / "labd.db")
    host = await inventory.host_id()
    broker = ManagedBroker(folder / "mqtt")
    await broker.start()
    tasks = [asyncio.create_task(broker.run())]
    try:
        password = new_password()
        everything = (Topics(host).all,)
        await broker.set_users([BrokerUser(name="reader", password=password, reads=everything)])
        publisher = Publisher(inventory, broker.address, host)
        tasks.append(asyncio.create_task(publisher.run()))
        await _make_lab(inventory)
        address = broker.plugin_address
        print(json.dumps([host, address.host, address.port, password]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await _make_events(inventory, int(rate * seconds), rate)
        await asyncio.to_thread(sys.stdin.read)
        await publisher.flush(5)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await broker.stop()
        await inventory.close()


async def _make_lab(inventory: SqliteInventory) -> None:
    async with inventory.transaction() as tx:
        lab = LabRecord(
            name=LAB,
            key="k",
            spec=LabSpec(template=LAB),
            wanted=Wanted.RUNNING,
            state=LabState.RUNNING,
            created="",
        )
        await tx.put_lab(lab)
        for number in range(GUESTS):
            node = NodeRecord(
                lab=LAB,
                name=f"n-{number}",
                key=f"k{number}",
                uuid=f"00000000-0000-0000-0000-{number:012}",
                uid=900_000 + number,
                wanted=Wanted.RUNNING,
                state=NodeState.READY,
            )
            await tx.put_node(node)


async def _make_events(inventory: SqliteInventory, total: int, rate: int) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for done in range(0, total, GUESTS):
        paused = done // GUESTS % 2 == 0
        state = NodeState.PAUSED if paused else NodeState.READY
        kind = EventType.NODE_PAUSED if paused else EventType.NODE_RESUMED
        async with inventory.transaction() as tx:
            for node in await inventory.nodes(LAB):
                await tx.put_node(replace(node, state=state))
                data = {"from": str(node.state), "to": str(state)}
                await tx.emit(EventDraft(type=kind, lab=LAB, node=node.name, data=data))
        await asyncio.sleep(max(0.0, began + (done + GUESTS) / rate - loop.time()))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
