"""Plugins."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from labd.api.callers import EngineDep
from labd.features import models, views

router = APIRouter(prefix="/plugins", tags=["plugins"])


@router.get("")
async def list_plugins(engine: EngineDep) -> models.Plugins:
    """List all installed plugins."""
    return models.Plugins(plugins=[views.plugin(item) for item in await engine.plugins()])


@router.put("/{plugin}")
async def set_plugin(
    plugin: models.PluginName, body: models.SetPlugin, engine: EngineDep
) -> models.Plugin:
    """Enable a plugin with settings, or disable it."""
    if body.enabled:
        return views.plugin(await engine.enable_plugin(plugin, body.settings))
    return views.plugin(await engine.disable_plugin(plugin))


@router.get("/{plugin}/log", response_class=PlainTextResponse)
async def get_plugin_log(plugin: models.PluginName, engine: EngineDep) -> Response:
    """Return what is kept of the plugin's output, at most 1 MiB."""
    return Response(await engine.plugin_log(plugin), media_type="text/plain; charset=utf-8")
