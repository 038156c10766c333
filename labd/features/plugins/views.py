"""What the service of plugins returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labd.model.records import PluginRecord
from labd.model.states import PluginState


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginView:
    """A plugin that is installed.

    Attributes:
        record: None when it was never enabled.
        description: From its manifest.
        state: Of its process.
        restarts: Since it was enabled or the daemon started.
        problem: Why it cannot run, or empty.
    """

    name: str
    description: str
    version: str
    events: tuple[str, ...]
    scopes: tuple[str, ...]
    settings_schema: Mapping[str, object]
    record: PluginRecord | None
    state: PluginState
    restarts: int = 0
    problem: str = ""
