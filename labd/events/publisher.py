"""Drains the outbox to the broker: at least once, in order, and in nobody's way.

One session is one connection: status, then the state topics from a snapshot, then the events behind
the last acknowledged one. Sending and acknowledgement are two tasks with a bounded queue between
them; when the connection breaks, the next session starts again behind what was acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from labd.events.messages import (
    Outgoing,
    Snapshot,
    Topics,
    event_messages,
    snapshot_messages,
    status_message,
)
from labd.events.mqtt import BrokerAddress, Connection, MqttError, Will, connect, properties
from labd.host.backoff import Backoff
from labd.model.errors import LabdError
from labd.model.events import CONTENT_TYPE, Event
from labd.model.records import LabRecord, NodeRecord

log = logging.getLogger(__name__)

WINDOW = 64  # events ahead of their acknowledgements
_MARK_EVERY = 0.05  # seconds between two notes of what was acknowledged: each is a commit
_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0  # seconds between two connections
_STEADY = 5.0  # seconds after which a connection counts as a good one
_FAREWELL = 1.0  # seconds for the last words on an orderly stop

_Sent = tuple[int, list[asyncio.Task[None]]]


class EventSource(Protocol):
    """What the publisher needs of an inventory."""

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs."""

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return all nodes."""

    async def events(self, after: int, limit: int = 500) -> Sequence[Event]:
        """Return events with `seq > after` in order."""

    async def last_seq(self) -> int:
        """Return the highest seq, 0 when none."""

    async def published_seq(self) -> int:
        """Return the seq up to which the broker has acknowledged."""

    async def mark_published(self, seq: int) -> None:
        """Remember it (monotonic)."""

    async def wait_events(self, after: int) -> int:
        """Return the last seq as soon as it is above `after`."""


class Publisher:
    """Publishes the events of one host to one broker; see the module.

    Attributes:
        connected: Whether there is a connection that the broker has accepted.
        problem: Why there is none, for `lab doctor`; empty when there is one.
    """

    def __init__(self, source: EventSource, broker: BrokerAddress, host: str) -> None:
        self.connected = False
        self.problem = "not connected yet"
        self._source = source
        self._broker = broker
        self._host = host
        self._topics = Topics(host)
        self._properties = properties("PUBLISH", CONTENT_TYPE)
        self._acknowledged = 0
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Publish for ever; on cancellation say `offline` and go.

        Failures of the broker or the inventory are logged once and tried again with back-off.
        """
        # Jitter, so that many hosts do not come back to one broker at one time.
        backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, steady=_STEADY, jitter=0.5)
        while True:
            backoff.begin()
            try:
                await self._session()
            except* (MqttError, LabdError) as group:
                self._tell_problem(_first(group))
            except* Exception:
                self.connected, self.problem = False, "a fault of labd; see `lab doctor`"
                raise
            # When a member of a task group fails just as it is cancelled, only the failure is told.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            await asyncio.sleep(backoff.pause())

    async def flush(self, timeout: float) -> bool:
        """Wait until the broker has everything that was committed before this call.

        Returns:
            False when it has not within `timeout` seconds; the rest goes out later.
        """
        wanted = await self._source.last_seq()
        self._acknowledged = max(self._acknowledged, await self._source.published_seq())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._acknowledged < wanted:
                    await self._progress.wait()
        return self._acknowledged >= wanted

    def _tell_problem(self, error: BaseException) -> None:
        if self.connected or self.problem != str(error):
            log.warning(
                "events wait in the inventory: broker %s: %s; trying again",
                self._broker.url,
                error,
            )
        self.connected, self.problem = False, str(error)

    async def _session(self) -> None:
        session = secrets.token_hex(4)
        gone = status_message(self._topics, session, state="offline", clean=False)
        will = Will(
            gone.topic,
            gone.payload,
            qos=1,
            retain=True,
            properties=properties("WILLMESSAGE", CONTENT_TYPE),
        )
        async with connect(self._broker, identifier=f"labd-{self._host}", will=will) as connection:
            if not self.connected:
                log.info("connected to broker %s", self._broker.url)
            self.connected, self.problem = True, ""
            try:
                await _Session(self, connection, session).run()
            except asyncio.CancelledError:
                bye = status_message(self._topics, session, state="offline", clean=True)
                with suppress(MqttError, TimeoutError):
                    async with asyncio.timeout(_FAREWELL):
                        await connection.deliver(
                            bye.topic, bye.payload, retain=True, properties=self._properties
                        )
                raise

    def _advance(self, seq: int) -> None:
        self._acknowledged = seq
        self._progress.set()
        self._progress = asyncio.Event()


class _Session:
    """One connection's work."""

    def __init__(self, publisher: Publisher, connection: Connection, id_: str) -> None:
        self._publisher = publisher
        self._source = publisher._source
        self._topics = publisher._topics
        self._connection = connection
        self._id = id_
        self._slots = asyncio.Semaphore(min(connection.receive_maximum, 4 * WINDOW))
        self._sent: asyncio.Queue[_Sent] = asyncio.Queue(WINDOW)
        self._marked = 0
        self._acknowledged = 0
        self._to_mark = asyncio.Event()

    async def run(self) -> None:
        """Work until the connection breaks, the inventory fails or it is cancelled."""
        self._acknowledged = self._marked = await self._source.published_seq()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._connection.lost())
                tasks.create_task(self._mark())
                tasks.create_task(self._acknowledge())
                await self._send_all(tasks)
        finally:
            if self._acknowledged > self._marked:
                await self._source.mark_published(self._acknowledged)

    async def _send_all(self, tasks: asyncio.TaskGroup) -> None:
        online = status_message(self._topics, self._id, state="online")
        snapshot = Snapshot(
            seq=await self._source.last_seq(),
            labs=await self._source.labs(),
            nodes=await self._source.nodes(),
        )
        for message in (online, *snapshot_messages(self._topics, snapshot)):
            await self._send(tasks, message)
        cursor = self._acknowledged
        while True:
            for event in await self._source.events(cursor, WINDOW):
                sent = [
                    await self._send(tasks, message)
                    for message in event_messages(self._topics, event, snapshot)
                ]
                cursor = event.seq
                await self._sent.put((cursor, sent))
            await self._source.wait_events(cursor)

    async def _send(self, tasks: asyncio.TaskGroup, message: Outgoing) -> asyncio.Task[None]:
        # The slot is taken here and not in the task, so that messages leave in this order.
        await self._slots.acquire()
        return tasks.create_task(self._deliver(message))

    async def _deliver(self, message: Outgoing) -> None:
        try:
            await self._connection.deliver(
                message.topic,
                message.payload,
                retain=message.retain,
                properties=self._publisher._properties,
            )
        finally:
            self._slots.release()

    async def _acknowledge(self) -> None:
        while True:
            seq, sent = await self._sent.get()
            # One that fails ends the session by the task group, before anything is counted here.
            for task in sent:
                await task
            self._acknowledged = seq
            self._publisher._advance(seq)
            self._to_mark.set()

    async def _mark(self) -> None:
        while True:
            await self._to_mark.wait()
            self._to_mark.clear()
            seq = self._acknowledged
            await self._source.mark_published(seq)
            self._marked = seq
            await asyncio.sleep(_MARK_EVERY)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
