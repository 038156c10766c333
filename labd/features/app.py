"""The HTTP API of all features: their routers, and the app made of them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, FastAPI

from labd.api.app import AppSettings, create_app
from labd.features.access import routes as access
from labd.features.activity import routes as activity
from labd.features.capture import routes as capture
from labd.features.checkpoints import routes as checkpoints
from labd.features.classes import routes as classes
from labd.features.connect import routes as connect
from labd.features.console import routes as console
from labd.features.engine import Engine
from labd.features.events import routes as events
from labd.features.fsck import routes as fsck
from labd.features.guests import routes as guests
from labd.features.host import routes as host
from labd.features.images import profile_routes
from labd.features.images import routes as images
from labd.features.labs import edit_routes
from labd.features.labs import routes as labs
from labd.features.leases import routes as leases
from labd.features.links import routes as links
from labd.features.operations import routes as operations
from labd.features.plugins import routes as plugins
from labd.features.screens import routes as screens
from labd.features.serving import routes as serving
from labd.features.templates import routes as templates
from labd.features.templates.shipped import ShippedTemplates
from labd.features.usage import routes as usage
from labd.features.warm import routes as warm

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    module.router
    for module in (
        access,
        activity,
        capture,
        checkpoints,
        classes,
        connect,
        console,
        events,
        fsck,
        guests,
        host,
        profile_routes,
        images,
        edit_routes,
        labs,
        leases,
        links,
        operations,
        plugins,
        screens,
        serving,
        templates,
        usage,
        warm,
    )
)


def make_app(engine: Engine, templates: ShippedTemplates, settings: AppSettings) -> FastAPI:
    """Return the app that serves an engine."""
    return create_app(ROUTERS, [*engine.services(), templates], engine.access, settings)
