"""The publisher against a real mosquitto that is killed, stopped, emptied, and slow."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import statistics
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from labd.events.broker import ManagedBroker
from labd.events.mqtt import BrokerAddress, connect
from labd.events.publisher import EventSource, Publisher
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.inventory import SqliteInventory
from labd.model.events import EventDraft, EventType
from labd.model.records import LabRecord, NodeRecord, Wanted
from labd.model.specs import LabSpec
from labd.model.states import LabState, NodeState
from tests.system.brokers import (
    emit,
    publishing,
    running_broker,
    short_folder,
    slow_line,
    subscriber,
    until,
)

log = logging.getLogger(__name__)

LAB = LabRecord(
    name="web",
    key="aaaaaa",
    spec=LabSpec(template="hello"),
    wanted=Wanted.RUNNING,
    state=LabState.STARTING,
)
NODE = NodeRecord(
    lab="web",
    name="n0",
    key="bbbbbb",
    uuid="u",
    uid=200000,
    wanted=Wanted.RUNNING,
    state=NodeState.STOPPED,
)


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """Yield an empty folder."""
    with short_folder() as path:
        yield path


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[ManagedBroker]:
    """Yield a broker under supervision."""
    async with running_broker(folder) as running:
        yield running


@pytest.fixture
async def inventory(folder: Path) -> AsyncIterator[SqliteInventory]:
    """Yield an empty inventory."""
    opened = await SqliteInventory.open(folder / "state.db")
    yield opened
    await opened.close()


async def create(inventory: SqliteInventory) -> None:
    """Write a lab with a node."""
    async with inventory.transaction() as tx:
        await tx.put_lab(LAB)
        await tx.emit(EventDraft(type=EventType.LAB_CREATED, lab="web", data={"template": "hello"}))
        await tx.put_node(NODE)
        await tx.emit(EventDraft(type=EventType.NODE_CREATED, lab="web", node="n0"))


async def move(inventory: SqliteInventory, state: NodeState, kind: EventType) -> None:
    """Move the node."""
    async with inventory.transaction() as tx:
        await tx.put_node(replace(NODE, state=state))
        data = {"from": "x", "to": str(state), "reason": "so it is"}
        await tx.emit(EventDraft(type=kind, lab="web", node="n0", data=data))


async def destroy(inventory: SqliteInventory) -> None:
    """Remove lab and node."""
    async with inventory.transaction() as tx:
        await tx.emit(EventDraft(type=EventType.NODE_DESTROYED, lab="web", node="n0"))
        await tx.delete_lab("web")
        await tx.emit(EventDraft(type=EventType.LAB_DESTROYED, lab="web", data={"to": "destroyed"}))


async def test_events_and_states_as_the_contract_has_them(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    host = await inventory.host_id()
    async with subscriber(broker.address) as record:
        async with publishing(inventory, broker.address) as publisher:
            await until(lambda: publisher.connected)
            await create(inventory)
            await move(inventory, NodeState.READY, EventType.NODE_READY)
            async with inventory.transaction() as tx:
                await tx.emit(EventDraft(type=EventType.IMAGE_ADDED, subject="tiny"))
            assert await publisher.flush(5)
            await until(lambda: len(record.seqs) == 4)
            assert record.seqs == [1, 2, 3, 4]
            assert record.states() == {
                "status": "online",
                "lab/web/state": "starting",
                "lab/web/node/n0/state": "ready",
            }
            event = record.messages[-3][1]
            state = record.messages[-2][1]
            assert record.messages[-3][0] == f"labd/v1/{host}/lab/web/events"
            assert record.messages[-1][0] == f"labd/v1/{host}/events"
            assert event["type"] == "io.labd.node.ready"
            assert event["source"] == f"/labd/{host}"
            assert state["type"] == "io.labd.node.snapshot"
            assert state["seq"] == event["seq"] == 3
            assert state["id"] == "lab/web/node/n0/state@3"
            assert state["data"] == {"state": "ready", "reason": "so it is"}
            await destroy(inventory)
            await until(lambda: record.states() == {"status": "online"})
        await until(lambda: record.states() == {"status": "offline"})
        assert record.messages[-1][1]["data"] == {"state": "offline", "clean": True}
    assert await inventory.published_seq() == 6


async def test_the_content_type_is_that_of_cloudevents(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    listener = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-V", "5", "-h", "127.0.0.1", "-p", str(broker.port),
        "-u", "labd", "-P", broker.address.password,
        "-t", "labd/v1/+/lab/#", "-q", "1", "-C", "2", "-W", "10", "-F", "%r %C %t",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with publishing(inventory, broker.address) as publisher:
        await until(lambda: publisher.connected)
        await asyncio.sleep(0.3)
        await create(inventory)
        output, _ = await listener.communicate()
    lines = output.decode().split()
    assert lines[0::3] == ["0", "0"]
    assert lines[1::3] == ["application/cloudevents+json"] * 2
    assert [topic.rsplit("/", 1)[1] for topic in lines[2::3]] == ["events", "state"]


async def test_a_broker_killed_in_a_burst_leaves_order_and_after_replay_no_gap(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    async with (
        subscriber(broker.address) as record,
        publishing(inventory, broker.address) as publisher,
    ):
        burst = asyncio.create_task(emit(inventory, 1500))
        for _ in range(2):
            seen, pid = len(record.seqs), broker.pid
            assert pid is not None
            await until(lambda seen=seen: len(record.seqs) > seen + 150)  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: broker.pid not in {None, pid})  # type: ignore[misc]
        await burst
        assert await publisher.flush(20)
        await until(lambda: record.seqs[-1] == 1500)
    # What a consumer of the contract does: drop what it has seen, replay what it has missed.
    last, got, missed = 0, [], 0
    for seq in record.seqs:
        if seq > last:
            replayed = await inventory.events(last, seq - last - 1) if seq > last + 1 else []
            missed += len(replayed)
            got += [*(event.seq for event in replayed), seq]
            last = seq
    assert got == list(range(1, 1501))
    # Two kills lose what the broker had acknowledged and not handed on, or sent before the
    # subscriber was back: never a great part.
    assert missed < 1000


async def test_all_arrives_without_replay_when_only_the_publisher_is_cut(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    async with subscriber(broker.address) as record:
        burst = asyncio.create_task(emit(inventory, 600))
        for _ in range(4):
            async with publishing(inventory, broker.address):
                await asyncio.sleep(0.05)
        await burst
        async with publishing(inventory, broker.address) as publisher:
            assert await publisher.flush(10)
        await until(lambda: bool(record.seqs) and record.seqs[-1] == 600)
    assert list(dict.fromkeys(record.seqs)) == list(range(1, 601))
    repeated = len(record.seqs) - 600
    assert repeated < 5 * 64


async def test_a_broker_that_comes_back_empty_gets_every_state_again(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    await create(inventory)
    async with publishing(inventory, broker.address) as publisher:
        assert await publisher.flush(5)
        await move(inventory, NodeState.READY, EventType.NODE_READY)
        assert await publisher.flush(5)
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: broker.pid not in {None, pid})
        async with subscriber(broker.address) as record:
            await until(
                lambda: (
                    record.states()
                    == {
                        "status": "online",
                        "lab/web/state": "starting",
                        "lab/web/node/n0/state": "ready",
                    }
                )
            )


async def test_states_of_what_went_meanwhile_are_emptied_and_never_go_back(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    await create(inventory)
    async with publishing(inventory, broker.address) as publisher:
        assert await publisher.flush(5)
    # While nobody publishes, the lab is moved, destroyed, and made again.
    await move(inventory, NodeState.READY, EventType.NODE_READY)
    await destroy(inventory)
    async with inventory.transaction() as tx:
        await tx.put_lab(replace(LAB, state=LabState.RUNNING))
        await tx.emit(EventDraft(type=EventType.LAB_CREATED, lab="web"))
        await tx.emit(EventDraft(type=EventType.LAB_STATE, lab="web", data={"to": "running"}))
    async with subscriber(broker.address) as record:
        await until(lambda: len(record.states()) == 3)
        record.messages.clear()
        async with publishing(inventory, broker.address) as publisher:
            assert await publisher.flush(5)
            await until(lambda: 7 in record.seqs)
            states = [
                parsed["data"]["state"] if parsed else None
                for topic, parsed, _ in record.messages
                if topic.endswith("lab/web/state")
            ]
            assert states == ["running"]
            assert record.messages[-1][0].endswith("lab/web/events")
    async with subscriber(broker.address, name="fresh") as fresh:
        await until(lambda: len(fresh.states()) == 2)
        await asyncio.sleep(0.1)
        assert fresh.states() == {"status": "offline", "lab/web/state": "running"}


async def test_a_stopped_broker_slows_no_transaction_and_loses_nothing(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    async with (
        subscriber(broker.address) as record,
        publishing(inventory, broker.address) as publisher,
    ):
        await emit(inventory, 10)
        assert await publisher.flush(5)
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            loop = asyncio.get_running_loop()
            took = []
            for _ in range(300):
                started = loop.time()
                await emit(inventory, 1)
                took.append(loop.time() - started)
                await asyncio.sleep(0.005)
            assert not await publisher.flush(0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        # A commit that waited for the broker would take its publisher's time-out, which is seconds.
        assert statistics.median(took) < 0.2
        assert await publisher.flush(10)
        await until(lambda: record.seqs[-1:] == [310])
    assert list(dict.fromkeys(record.seqs)) == list(range(1, 311))


async def test_a_broker_at_1_kb_a_second_slows_no_transaction_and_gets_all_in_order(
    broker: ManagedBroker, inventory: SqliteInventory, folder: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with (
        subscriber(broker.address) as record,
        slow_line(broker.address, folder, rate=1024) as slow,
        publishing(inventory, slow) as publisher,
    ):
        await until(lambda: publisher.connected)
        started = loop.time()
        await emit(inventory, 30)
        committed = loop.time() - started
        assert not await publisher.flush(1), "it is slow indeed"
        assert await publisher.flush(120)
        delivered = loop.time() - started
        await until(lambda: record.seqs[-1:] == [30])
    assert list(dict.fromkeys(record.seqs)) == list(range(1, 31))
    assert committed < delivered / 2


async def test_last_will_tells_of_a_daemon_that_went_without_a_word(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    # Another connection with the same client id ends the first as a death would.
    host = await inventory.host_id()
    gone = {"state": "offline", "clean": False}
    async with (
        subscriber(broker.address) as record,
        publishing(inventory, broker.address) as publisher,
    ):
        await until(lambda: publisher.connected)
        async with connect(broker.address, identifier=f"labd-{host}"):
            await until(
                lambda: any(
                    parsed["data"] == gone
                    for topic, parsed, _ in record.messages
                    if topic.endswith("/status")
                )
            )


async def test_wrong_credentials_are_told_and_harm_nobody(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    wrong = replace(broker.address, password="wrong")
    async with publishing(inventory, wrong) as publisher:
        await until(lambda: "ot authori" in publisher.problem)
        await emit(inventory, 3)
        assert not publisher.connected
        assert not await publisher.flush(0.3)
    assert await inventory.published_seq() == 0
    async with publishing(inventory, broker.address) as publisher:
        assert await publisher.flush(5)


async def test_a_broker_that_is_not_there_yet_gets_all_when_it_comes(
    folder: Path, inventory: SqliteInventory
) -> None:
    late = ManagedBroker(folder / "broker")
    async with publishing(inventory, late.address) as publisher:
        await emit(inventory, 5)
        await until(lambda: bool(publisher.problem))
        await late.start()
        try:
            assert await publisher.flush(10)
        finally:
            await late.stop()


async def test_a_failing_inventory_is_tried_again(broker: ManagedBroker, folder: Path) -> None:
    inventory = await SqliteInventory.open(folder / "other.db")
    await emit(inventory, 1)
    async with publishing(inventory, broker.address) as publisher:
        assert await publisher.flush(5)
        await emit(inventory, 1)
        await inventory.close()
        await until(lambda: "is closed" in publisher.problem)
        assert not publisher.connected


async def test_a_cancellation_as_the_broker_dies_ends_the_publisher(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    publisher = Publisher(inventory, broker.address, await inventory.host_id())
    for _ in range(5):
        task = asyncio.create_task(publisher.run())
        await until(lambda: publisher.connected)
        await emit(inventory, 5)
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=3)
        assert done
        assert task.cancelled()
        publisher.connected = False
        await until(lambda pid=pid: broker.pid not in {None, pid})  # type: ignore[misc]


async def test_a_host_that_is_none_is_a_problem_not_an_end(inventory: SqliteInventory) -> None:
    nowhere = BrokerAddress(host="x" * 70 + ".invalid")
    async with publishing(inventory, nowhere) as publisher:
        await until(lambda: "no such host" in publisher.problem)


class Faulty:
    """An inventory whose events cannot be read once, by a fault of labd."""

    def __init__(self, inventory: SqliteInventory) -> None:
        self._inventory = inventory
        self._left = 1

    def __getattr__(self, name: str) -> Any:
        if name == "events" and self._left:
            self._left -= 1
            raise ZeroDivisionError("a bug")
        return getattr(self._inventory, name)


async def test_a_fault_of_labd_loses_no_event(
    broker: ManagedBroker, inventory: SqliteInventory
) -> None:
    tasks, source = TaskSupervisor(), cast("EventSource", Faulty(inventory))
    publisher = Publisher(source, broker.address, await inventory.host_id())
    async with subscriber(broker.address) as record:
        run = tasks.supervise("publisher", publisher.run)
        try:
            await create(inventory)
            await until(lambda: record.seqs == [1, 2])
            assert publisher.connected
        finally:
            await cancel_all([run])
    assert [item.error for item in tasks.failures()] == ["ZeroDivisionError: a bug"]
