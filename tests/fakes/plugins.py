"""A runner of plugins in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from labd.features.plugins.manifest import Manifest
from labd.model.errors import NotFound
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.states import PluginState


class FakePlugins:
    """Implements the port `PluginRunner`; `running` is name -> (settings, uid).

    Settings of plugins that have a manifest are checked as the supervisor checks them.
    """

    def __init__(self) -> None:
        self.plugins = {"hook": InstalledPlugin(name="hook", version="1")}
        self.manifests: dict[str, Manifest] = {}
        self.running: dict[str, tuple[Mapping[str, object], int]] = {}
        self.told: Callable[[PluginChange], None] = lambda _: None

    def install(self, manifest: Manifest) -> None:
        """Install a plugin."""
        self.manifests[manifest.name] = manifest
        self.plugins[manifest.name] = InstalledPlugin(
            name=manifest.name,
            version=manifest.version,
            description=manifest.description,
            events=manifest.events,
            scopes=manifest.scopes,
            settings_schema=manifest.settings_schema(),
        )

    def listen(self, listener: Callable[[PluginChange], None]) -> None:
        self.told = listener

    def installed(self) -> Sequence[InstalledPlugin]:
        return list(self.plugins.values())

    def check_settings(self, name: str, settings: Mapping[str, object]) -> Mapping[str, object]:
        if name in self.manifests:
            return self.manifests[name].check_settings(settings)
        if name not in self.plugins:
            raise NotFound(f"there is no plugin {name}")
        return {"url": "http://localhost", **settings}

    async def start(
        self, name: str, settings: Mapping[str, object], uid: int, since: int | None = None
    ) -> None:
        await asyncio.sleep(0)
        self.running[name] = (settings, uid)
        self.told(PluginChange(name=name, state=PluginState.RUNNING))

    async def stop(self, name: str) -> None:
        await asyncio.sleep(0)
        self.running.pop(name, None)

    def state(self, name: str) -> tuple[PluginState, int]:
        return (PluginState.RUNNING if name in self.running else PluginState.DISABLED), 0

    def log(self, name: str) -> bytes:
        return b"said\n"

    async def close(self) -> None:
        self.running.clear()
