"""A runner of plugins in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from labd.model.errors import NotFound
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.states import PluginState


class FakePlugins:
    """Implements the port `PluginRunner`; `running` is name -> (settings, uid)."""

    def __init__(self) -> None:
        self.plugins = {"hook": InstalledPlugin(name="hook", version="1")}
        self.running: dict[str, tuple[Mapping[str, object], int]] = {}
        self.told: Callable[[PluginChange], None] = lambda _: None

    def listen(self, listener: Callable[[PluginChange], None]) -> None:
        self.told = listener

    def installed(self) -> Sequence[InstalledPlugin]:
        return list(self.plugins.values())

    def check_settings(self, name: str, settings: Mapping[str, object]) -> Mapping[str, object]:
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
