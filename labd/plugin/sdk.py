"""The plugin's side: handlers, the durable cursor, gap detection and replay.

A plugin handles every event at least once and in order. Where it was is in the file `cursor`; what
it missed (it was away, the broker lost it, messages were dropped) comes from the replay endpoint.
MQTT only makes it quick: while there is no broker the plugin asks every second. Where the broker is
not labd's own, plugins have no user there, and follow the API's stream instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from labd.client import AsyncClient
from labd.client.errors import EventsPruned
from labd.client.types import EventPage
from labd.events.mqtt import BrokerAddress, MqttError, connect
from labd.host.backoff import Backoff
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.model.errors import LabdError
from labd.plugin.event import Event
from labd.plugin.files import CURSOR, SINCE, Credentials, replace_file

log = logging.getLogger("labd.plugin")

Handler = Callable[[Event, AsyncClient], Awaitable[None]]
StartHandler = Callable[[AsyncClient], Awaitable[None]]

_RETRIES = 3
_RETRY_DELAY = 1.0  # seconds, doubled each time
_POLL = 1.0  # seconds between two questions while there is no broker
_PATROL = 30.0  # seconds; the last of a row of events may be lost without a gap to see it by
_PAGE = 500
_FIRST_WAIT, _LAST_WAIT = 0.5, 30.0  # seconds between two requests while labd does not answer


@dataclass(frozen=True, slots=True)
class _Subscription:
    pattern: str
    lab: str
    handler: Handler


class Plugin:
    """A plugin: register handlers, then `run()`.

    Args:
        since: `now`, or `beginning` for a first start that hears everything that is still kept.

    Attributes:
        name: As in the manifest.
        settings: Validated, with defaults; known as soon as `run` has begun.
        folder: The plugin's own folder, kept over restarts.
    """

    def __init__(self, since: str = "now") -> None:
        self.name = ""
        self.settings: Mapping[str, object] = {}
        self.folder = Path()
        self._since = since
        self._subscriptions: list[_Subscription] = []
        self._starters: list[StartHandler] = []
        self._cursor = 0
        self._turn = asyncio.Lock()  # one event at a time
        self._trouble = ""  # the last that was logged: the same is not told twice

    def on(self, pattern: str, lab: str = "") -> Callable[[Handler], Handler]:
        """Have a handler called for each event whose type matches, such as `node.*`.

        It is called again, a second, two and four later, when it raises; then the event is logged
        and left, so that one bad event cannot hold up all others. It should bear being called
        twice for one event.
        """

        def register(handler: Handler) -> Handler:
            self._subscriptions.append(_Subscription(pattern, lab, handler))
            return handler

        return register

    def on_start(self, handler: StartHandler) -> StartHandler:
        """Have a coroutine called once before the first event."""
        self._starters.append(handler)
        return handler

    def run(self) -> None:
        """Run until SIGTERM."""
        logging.basicConfig(
            stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )
        try:
            credentials = Credentials.load(Path(), os.environ)
        except (KeyError, OSError, ValueError) as error:
            sys.exit(f"a plugin is started by labd (`lab plugin enable`), not by hand: {error}")
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._main(credentials))

    async def _main(self, credentials: Credentials) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is not None:
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
        self.name, self.settings = credentials.name, credentials.settings
        address = BrokerAddress(
            host=credentials.mqtt_host,
            port=credentials.mqtt_port,
            username=credentials.name,
            password=credentials.mqtt_password,
        )
        async with AsyncClient(credentials.socket, credentials.token) as client:
            await self._find_cursor(client)
            for starter in self._starters:
                await starter(client)
            log.info("%s hears events after %d", self.name, self._cursor)
            while True:
                if address.host:
                    await self._hear(client, address, credentials.host_id)
                else:
                    await self._follow(client)
                await asyncio.sleep(_POLL)

    def keep(self, name: str, text: str) -> None:
        """Write a file in the plugin's folder, whole and durably."""
        replace_file(self.folder / name, text)

    # the cursor

    async def _find_cursor(self, client: AsyncClient) -> None:
        """Go on where it was, or begin with the present."""
        last = int((await self._ask(client, None))["last"])
        try:
            self._cursor = int((self.folder / CURSOR).read_text())
        except (OSError, ValueError):
            self._cursor = self._enabled_at(last) if self._since == "now" else 0
        if self._cursor > last:
            log.warning("labd has a new inventory: hearing its events from the first on")
            self._cursor = 0
        self._keep_cursor()

    def _enabled_at(self, last: int) -> int:
        """Return the seq at which this plugin was enabled: what happened since is not missed."""
        try:
            return min(last, int((self.folder / SINCE).read_text()))
        except (OSError, ValueError):
            return last

    def _keep_cursor(self) -> None:
        replace_file(self.folder / CURSOR, f"{self._cursor}\n")

    async def _ask(self, client: AsyncClient, after: int | None) -> EventPage:
        """Return a page of events; asks until labd answers.

        Raises:
            EventsPruned: They are not kept any more.
        """
        backoff = Backoff(_FIRST_WAIT, _LAST_WAIT)
        while True:
            try:
                page = await client.events(after, _PAGE if after is not None else 1)
            except EventsPruned:
                raise
            except LabdError as error:
                self._warn(f"labd does not give events: {error}")
                await asyncio.sleep(backoff.pause())
            else:
                return page

    def _warn(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble

    # hearing

    async def _hear(self, client: AsyncClient, address: BrokerAddress, host_id: str) -> None:
        """Listen over one connection; without one, catch up by the API."""
        root = f"labd/v1/{host_id}"
        try:
            async with connect(address, identifier=f"plugin-{self.name}-{os.getpid()}") as broker:
                await broker.subscribe([(f"{root}/events", 1), (f"{root}/lab/+/events", 1)])
                self._trouble = ""
                # What happened before the subscription stood comes from the replay endpoint.
                await self._catch_up(client)
                async with self._patrolled(client):
                    async for message in broker.messages:
                        if isinstance(message.payload, bytes):
                            async with self._turn:
                                await self._take(client, message.payload)
        except (MqttError, TimeoutError) as error:
            self._warn(f"no broker ({error}): asking labd instead")
            await self._catch_up(client)

    @contextlib.asynccontextmanager
    async def _patrolled(self, client: AsyncClient) -> AsyncIterator[None]:
        """Ask labd now and then whether there is more, between two messages."""

        async def patrol() -> None:
            while True:
                await asyncio.sleep(_PATROL)
                async with self._turn:
                    await self._catch_up(client)

        task = TaskSupervisor().supervise("patrol", patrol)
        try:
            yield
        except MqttError:
            async with self._turn:  # a handler is not broken off because the broker is gone
                raise
        finally:
            await cancel_all([task])

    async def _follow(self, client: AsyncClient) -> None:
        """Read the API's stream until it ends."""
        await self._catch_up(client)
        try:
            async with contextlib.aclosing(client.follow(self._cursor)) as stream:
                self._trouble = ""
                async for record in stream:
                    await self._handle(Event.of(dict(record)), client)
        except LabdError as error:
            self._warn(f"labd does not give events: {error}")

    async def _take(self, client: AsyncClient, payload: bytes) -> None:
        try:
            event = Event.of(json.loads(payload))
        except (ValueError, AttributeError) as error:
            log.warning("a message that is no event was left out: %s", error)
            return
        if event.is_state or event.seq <= self._cursor:
            return
        if event.seq > self._cursor + 1:
            log.info("events %d to %d were missed: replaying", self._cursor + 1, event.seq - 1)
            await self._catch_up(client)
        if event.seq == self._cursor + 1:
            await self._handle(event, client)

    async def _catch_up(self, client: AsyncClient) -> None:
        """Handle everything after the cursor that labd has."""
        while True:
            try:
                page = await self._ask(client, self._cursor)
            except EventsPruned as error:
                first = int(str(error.details.get("first", self._cursor + 2)))
                log.warning(
                    "events %d to %d are lost: labd keeps them no more", self._cursor + 1, first - 1
                )
                self._cursor = first - 1
                continue
            for record in page["events"]:
                await self._handle(Event.of(dict(record)), client)
            if not page["events"] or self._cursor >= int(page["last"]):
                return

    async def _handle(self, event: Event, client: AsyncClient) -> None:
        wanted = [s for s in self._subscriptions if event.matches(s.pattern, s.lab)]
        for subscription in wanted:
            await self._call(subscription.handler, event, client)
        self._cursor = event.seq
        # Handling an event that nobody wants again costs nothing: only the others are noted.
        if wanted or event.seq % 100 == 0:
            self._keep_cursor()

    async def _call(self, handler: Handler, event: Event, client: AsyncClient) -> None:
        """Call a handler, a few times when it fails: the supervisor loop of a plugin."""
        backoff = Backoff(_RETRY_DELAY)
        for attempt in range(1, _RETRIES + 2):
            try:
                await handler(event, client)
            except Exception:
                if attempt > _RETRIES:
                    log.exception(
                        "event %d (%s) was left: its handler fails", event.seq, event.type
                    )
                    return
                delay = backoff.pause()
                log.warning("handler failed for event %d; again in %g s", event.seq, delay)
                await asyncio.sleep(delay)
            else:
                return
