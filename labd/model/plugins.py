"""What there is of plugins, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.states import PluginState


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPlugin:
    """A plugin that was found in a plugin folder.

    Attributes:
        problem: Why it cannot run (a bad manifest), or empty.
    """

    name: str
    version: str = ""
    description: str = ""
    events: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    settings_schema: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginChange:
    """A plugin's process was started, or ended by itself.

    Attributes:
        status: Exit status, negative for a signal; None for a start.
        reason: For people.
    """

    name: str
    state: PluginState
    status: int | None = None
    reason: str = ""
