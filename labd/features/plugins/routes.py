"""Plugins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field

from labd.api.models import Body, Wire
from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.plugins.service import PluginService
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


router = APIRouter(prefix="/plugins", tags=["plugins"])

PluginsDep = Annotated[PluginService, Depends(service(PluginService))]


@router.get("")
@requires(Scope.PLUGINS_ADMIN)
async def list_plugins(plugins: PluginsDep) -> Plugins:
    """List all installed plugins."""
    return Plugins(plugins=[show_plugin(item) for item in await plugins.all()])


@router.put("/{plugin}")
@requires(Scope.PLUGINS_ADMIN, about=NOBODYS)
async def set_plugin(plugin: PluginName, body: SetPlugin, plugins: PluginsDep) -> Plugin:
    """Enable a plugin with settings, or disable it."""
    if body.enabled:
        return show_plugin(await plugins.enable(plugin, body.settings))
    return show_plugin(await plugins.disable(plugin))


@router.get("/{plugin}/log", response_class=PlainTextResponse)
@requires(Scope.PLUGINS_ADMIN, about=NOBODYS)
async def get_plugin_log(plugin: PluginName, plugins: PluginsDep) -> Response:
    """Return what is kept of the plugin's output, at most 1 MiB."""
    return Response(await plugins.log(plugin), media_type="text/plain; charset=utf-8")
