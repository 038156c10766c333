"""Plugins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response

from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.plugins import schemas
from labd.features.plugins.service import Plugins

router = APIRouter(prefix="/plugins", tags=["plugins"])

PluginsDep = Annotated[Plugins, Depends(service(Plugins))]


@router.get("")
@requires(Scope.PLUGINS_ADMIN)
async def list_plugins(plugins: PluginsDep) -> schemas.Plugins:
    """List all installed plugins."""
    return schemas.Plugins(plugins=[schemas.show_plugin(item) for item in await plugins.all()])


@router.put("/{plugin}")
@requires(Scope.PLUGINS_ADMIN, about=NOBODYS)
async def set_plugin(
    plugin: schemas.PluginName, body: schemas.SetPlugin, plugins: PluginsDep
) -> schemas.Plugin:
    """Enable a plugin with settings, or disable it."""
    if body.enabled:
        return schemas.show_plugin(await plugins.enable(plugin, body.settings))
    return schemas.show_plugin(await plugins.disable(plugin))


@router.get("/{plugin}/log", response_class=PlainTextResponse)
@requires(Scope.PLUGINS_ADMIN, about=NOBODYS)
async def get_plugin_log(plugin: schemas.PluginName, plugins: PluginsDep) -> Response:
    """Return what is kept of the plugin's output, at most 1 MiB."""
    return Response(await plugins.log(plugin), media_type="text/plain; charset=utf-8")
