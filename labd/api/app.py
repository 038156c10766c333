"""The app: routers, gate and problems put together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI

from labd.api import problems
from labd.api.access import Services, TokenCheck, attach, authorise, check_routes
from labd.api.gate import Gate
from labd.api.models import Problem
from labd.api.routes import (
    activity,
    addresses,
    captures,
    checkpoints,
    classes,
    console,
    edits,
    events,
    guests,
    host,
    images,
    labs,
    leases,
    operations,
    plugins,
    pools,
    profiles,
    screens,
    templates,
    usage,
    ways,
    wires,
)
from labd.api.templates import TemplateFiles
from labd.engine.facade import EngineApi

_MODULES = (
    activity,
    addresses,
    captures,
    checkpoints,
    classes,
    pools,
    host,
    templates,
    labs,
    leases,
    console,
    edits,
    guests,
    screens,
    usage,
    ways,
    wires,
    operations,
    events,
    images,
    profiles,
    plugins,
)
_PROBLEM = {"model": Problem, "content": {problems.MEDIA_TYPE: {}}}


def create_app(
    engine: EngineApi,
    template_files: TemplateFiles,
    *,
    version: str,
    tokens: TokenCheck,
    admin_socket: Path,
) -> FastAPI:
    """Make the app.

    Args:
        engine: What does the work.
        template_files: Compiles templates and lists the shipped ones.
        version: labd's own, for `/v1/info` and the OpenAPI document.
        tokens: Knows bearer tokens.
        admin_socket: Peers of this unix socket are administrators; all others need a token.
    """
    app = FastAPI(
        title="labd",
        version=version,
        summary="Take labs of real machines on real networks up and down.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # Spans and metrics that nobody collects cost time, and must never leave the host by an
        # environment variable.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    attach(
        app,
        Services(
            engine=engine,
            templates=template_files,
            version=version,
            closing=asyncio.Event(),
        ),
    )
    router = APIRouter(prefix="/v1", dependencies=[Depends(authorise)])
    names: list[str] = []
    for module in _MODULES:
        names += [getattr(route, "name", "") for route in module.router.routes]
        router.include_router(module.router)
    check_routes(names)
    app.include_router(
        router,
        responses={
            code: {**_PROBLEM, "description": text}
            for code, text in {
                "4XX": "The request is wrong, or the present state forbids it",
                "5XX": "The world failed",
            }.items()
        },
    )
    problems.install(app)
    app.add_middleware(Gate, admin_socket=admin_socket, tokens=tokens)
    return app
