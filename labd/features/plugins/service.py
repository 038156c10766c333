"""Which plugins run: intent in the inventory, processes by the runner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from labd.core.adapters import NODE_UIDS, PLUGIN_UIDS, Adapters
from labd.core.ports import PluginRunner
from labd.features.plugins.views import PluginView
from labd.host.supervision import cancel_all
from labd.host.threads import quick
from labd.model.errors import ConfigError, Conflict, LabdError, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.names import did_you_mean
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.records import PluginRecord
from labd.model.states import PluginState

log = logging.getLogger(__name__)

_EVENTS = {
    PluginState.RUNNING: EventType.PLUGIN_STARTED,
    PluginState.BACKOFF: EventType.PLUGIN_CRASHED,
}


class PluginService:
    """The plugin use-cases."""

    def __init__(self, adapters: Adapters, runner: PluginRunner) -> None:
        self._inventory = adapters.inventory
        self._tasks = adapters.tasks
        self._uid_base = adapters.limits.uid_base + NODE_UIDS
        self._runner = runner
        self._uids: dict[str, int] = {}
        self._changes: asyncio.Queue[PluginChange] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # intent and process change together
        runner.listen(self._changes.put_nowait)

    async def start(self) -> None:
        """Start every enabled plugin; one that cannot run is logged and holds up nothing."""
        self._task = self._tasks.supervise("plugins", self._tell)
        for record in await self._inventory.plugins():
            if not record.enabled:
                continue
            try:
                await self._start(record)
            except LabdError as error:
                log.warning("plugin %s cannot run: %s", record.name, error)

    async def close(self) -> None:
        """Stop every plugin."""
        await self._runner.close()
        if self._task is not None:
            await cancel_all([self._task])

    async def _start(self, record: PluginRecord, since: int | None = None) -> None:
        settings = self._runner.check_settings(record.name, record.settings)
        await self._runner.start(record.name, settings, self._uid(record.name), since)

    def _uid(self, name: str) -> int:
        """Return a user id that no other plugin of this daemon has had.

        Raises:
            Conflict: They are used up.
        """
        if name not in self._uids:
            if len(self._uids) >= PLUGIN_UIDS:
                raise Conflict(f"{PLUGIN_UIDS} plugins were started; restart labd for more")
            self._uids[name] = self._uid_base + len(self._uids)
        return self._uids[name]

    async def _tell(self) -> None:
        while True:
            change = await self._changes.get()
            kind = _EVENTS.get(change.state)
            if kind is None:
                continue
            data: dict[str, object] = {}
            if change.reason:
                data["reason"] = change.reason
            if change.status is not None:
                data["status"] = change.status
            try:
                async with self._inventory.transaction() as tx:
                    await tx.emit(EventDraft(type=kind, subject=change.name, data=data))
            except LabdError as error:
                log.warning("plugin %s: its change was not told: %s", change.name, error)

    def _find(self, name: str) -> InstalledPlugin:
        installed = {plugin.name: plugin for plugin in self._runner.installed()}
        if name not in installed:
            raise NotFound(f"there is no plugin {name}{did_you_mean(name, installed)}")
        return installed[name]

    async def all(self) -> Sequence[PluginView]:
        """Return all installed plugins."""
        records = {record.name: record for record in await self._inventory.plugins()}
        return [self._view(found, records.get(found.name)) for found in self._runner.installed()]

    def _view(self, found: InstalledPlugin, record: PluginRecord | None) -> PluginView:
        state, restarts = self._runner.state(found.name)
        return PluginView(
            name=found.name,
            description=found.description,
            version=found.version,
            events=found.events,
            scopes=found.scopes,
            settings_schema=found.settings_schema,
            record=record,
            state=state,
            restarts=restarts,
            problem=found.problem,
        )

    async def enable(self, name: str, settings: Mapping[str, object]) -> PluginView:
        """Validate, remember, start; new settings restart a plugin that runs.

        Raises:
            NotFound: It is not installed.
            ConfigError: Its manifest or the settings are wrong.
        """
        async with self._changing:
            found = self._find(name)
            if found.problem:
                raise ConfigError(found.problem)
            checked = self._runner.check_settings(name, settings)
            record = PluginRecord(name=name, enabled=True, settings=dict(checked))
            before = {plugin.name: plugin for plugin in await self._inventory.plugins()}.get(name)
            if before == record and self._runner.state(name)[0] is not PluginState.DISABLED:
                return self._view(found, record)
            since = await self._write(record, EventType.PLUGIN_ENABLED)
            await self._runner.stop(name)
            await self._start(record, since)
            return self._view(found, record)

    async def disable(self, name: str) -> PluginView:
        """Stop it, and remember that.

        Raises:
            NotFound: It is neither installed nor known.
        """
        async with self._changing:
            records = {record.name: record for record in await self._inventory.plugins()}
            record = records.get(name)
            if record is None:
                found = self._find(name)
            else:  # its folder may have been removed since
                installed = {plugin.name: plugin for plugin in self._runner.installed()}
                gone = InstalledPlugin(name=name, problem=f"plugin {name} is not installed")
                found = installed.get(name, gone)
            if record is not None and record.enabled:
                record = PluginRecord(name=name, enabled=False, settings=record.settings)
                await self._write(record, EventType.PLUGIN_DISABLED)
            await self._runner.stop(name)
            return self._view(found, record)

    async def _write(self, record: PluginRecord, kind: EventType) -> int:
        """Write a record and tell it; return the event's seq."""
        async with self._inventory.transaction() as tx:
            await tx.put_plugin(record)
            event = await tx.emit(EventDraft(type=kind, subject=record.name))
        return event.seq

    async def log(self, name: str) -> bytes:
        """Return the kept output of a plugin."""
        self._find(name)
        return await quick(self._runner.log, name)
