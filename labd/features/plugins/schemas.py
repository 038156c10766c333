"""What goes over the wire of plugins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import Field

from labd.api.models import Body, Wire
from labd.features.plugins.views import PluginView
from labd.model.names import NAME_PATTERN
from labd.model.states import PluginState

PluginName = Annotated[str, Path(pattern=NAME_PATTERN)]


class SetPlugin(Body):
    """Enable a plugin with settings, or disable it."""

    enabled: bool
    settings: dict[str, Any] = Field(default_factory=dict)


class Plugin(Wire):
    """An installed plugin."""

    name: str
    description: str
    version: str
    events: list[str]
    scopes: list[str]
    settings_schema: dict[str, Any]
    enabled: bool
    settings: dict[str, Any]
    state: PluginState
    restarts: int
    problem: str


class Plugins(Wire):
    """All installed plugins."""

    plugins: list[Plugin]


def show_plugin(view: PluginView) -> Plugin:
    """Show a plugin."""
    return Plugin(
        name=view.name,
        description=view.description,
        version=view.version,
        events=list(view.events),
        scopes=list(view.scopes),
        settings_schema=dict(view.settings_schema),
        enabled=view.record is not None and view.record.enabled,
        settings=dict(view.record.settings) if view.record else {},
        state=view.state,
        restarts=view.restarts,
        problem=view.problem,
    )
