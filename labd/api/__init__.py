"""HTTP and WebSocket over unix sockets: `create_app` makes the app, `serving` runs it."""

from __future__ import annotations

from labd.api.app import create_app
from labd.api.callers import Caller, Scope, TokenCheck, TokenHolder
from labd.api.server import serve, serving
from labd.features.templates.port import ShippedTemplate, TemplateFiles

__all__ = [
    "Caller",
    "Scope",
    "ShippedTemplate",
    "TemplateFiles",
    "TokenCheck",
    "TokenHolder",
    "create_app",
    "serve",
    "serving",
]
