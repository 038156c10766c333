"""What the tests with a real broker share: a subscriber, a source of events, patience."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from labd.events.broker import ManagedBroker
from labd.events.mqtt import BrokerAddress, MqttError, connect
from labd.events.publisher import Publisher
from labd.inventory import SqliteInventory
from labd.model.events import EventDraft, EventType


@dataclass
class Record:
    """What a subscriber has got.

    Attributes:
        messages: (topic, parsed payload or None, retain flag) in order.
        seqs: Of the messages on event topics, in order, repetitions too.
        times: Loop time of the first arrival of each seq.
    """

    messages: list[tuple[str, Any, bool]] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Note one message."""
        parsed = json.loads(payload) if payload else None
        self.messages.append((topic, parsed, retain))
        if topic.endswith("/events") and parsed is not None:
            self.seqs.append(parsed["seq"])
            self.times.setdefault(parsed["seq"], asyncio.get_running_loop().time())

    def retained(self) -> dict[str, Any]:
        """Return topic -> last payload of the state and status topics, without emptied ones."""
        last = {topic: parsed for topic, parsed, _ in self.messages if "/events" not in topic}
        return {topic: parsed for topic, parsed in last.items() if parsed is not None}

    def states(self) -> dict[str, str]:
        """Return the topics below the host -> state."""
        return {
            topic.split("/", 3)[3]: parsed["data"]["state"]
            for topic, parsed in self.retained().items()
        }


async def _subscribe(address: BrokerAddress, topic: str, record: Record, name: str) -> None:
    while True:
        with suppress(MqttError):
            async with connect(address, identifier=name) as connection:
                await connection.subscribe(topic, qos=1)
                record.connected.set()
                async for message in connection.messages:
                    assert isinstance(message.payload, bytes)
                    record.take(message.topic.value, message.payload, retain=message.retain)
        record.connected.clear()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def subscriber(
    address: BrokerAddress, topic: str = "labd/#", name: str = "test-subscriber"
) -> AsyncIterator[Record]:
    """Yield the record of a subscriber that comes back when the broker does."""
    record = Record()
    task = asyncio.create_task(_subscribe(address, topic, record, name))
    try:
        async with asyncio.timeout(5):
            await record.connected.wait()
        yield record
    finally:
        await cancelled(task)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end.

    Python 3.11 loses a cancellation that comes at the moment at which a member of a task group
    fails, or at which what `wait_for` waits for has come: it is asked again then.
    """
    for _ in range(6):
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        if task.done():
            break
    assert task.done(), f"{task!r} does not end"
    if not task.cancelled():
        task.result()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder whose path leaves room for a socket's name, closed to all but root."""
    with TemporaryDirectory(prefix="labd-t-", dir="/tmp") as name:
        yield Path(name)


@asynccontextmanager
async def running_broker(folder: Path) -> AsyncIterator[ManagedBroker]:
    """Yield a managed broker under supervision."""
    broker = ManagedBroker(folder / "broker")
    await broker.start()
    task = asyncio.create_task(broker.run())
    try:
        yield broker
    finally:
        await cancelled(task)
        await broker.stop()


@asynccontextmanager
async def publishing(
    inventory: SqliteInventory, address: BrokerAddress
) -> AsyncIterator[Publisher]:
    """Yield a publisher that runs."""
    publisher = Publisher(inventory, address, await inventory.host_id())
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        await cancelled(task)


async def emit(inventory: SqliteInventory, count: int, lab: str = "web") -> None:
    """Commit events that change no state, one transaction each."""
    for _ in range(count):
        async with inventory.transaction() as tx:
            await tx.emit(EventDraft(type=EventType.NODE_RESET, lab=lab, node="n0"))


@asynccontextmanager
async def slow_line(
    address: BrokerAddress, folder: Path, rate: int
) -> AsyncIterator[BrokerAddress]:
    """Yield a way to a broker's unix socket that takes `rate` bytes a second and no more."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float
    ) -> None:
        try:
            while part := await reader.read(rate // 10):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
        finally:
            writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert address.socket is not None
        theirs, ours = await asyncio.open_unix_connection(str(address.socket))
        for task in (carry(reader, ours, 0.1), carry(theirs, writer, 0)):
            tasks.add(asyncio.create_task(task))

    path = folder / "slow.sock"
    # A small buffer: what waits in it has left the publisher, and is not there.
    server = await asyncio.start_unix_server(join, str(path), limit=rate // 10)
    try:
        yield replace(address, socket=path)
    finally:
        server.close()
        for task in tasks:
            await cancelled(task)
