"""The app: routers, gate and problems put together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from fastapi import Depends, FastAPI

from labd.api import problems
from labd.api.authenticators import Authenticators, UserRoles
from labd.api.callers import Services, TokenCheck, attach, check_routes
from labd.api.gate import Gate
from labd.api.limits import STUDENT, Bounds, bounds_of
from labd.api.policy import authorise, check_paths
from labd.features.access import routes as tokens
from labd.features.activity import routes as activity
from labd.features.capture import routes as captures
from labd.features.checkpoints import routes as checkpoints
from labd.features.classes import routes as classes
from labd.features.connect import routes as ways
from labd.features.console import routes as console
from labd.features.events import routes as events
from labd.features.facade import EngineApi
from labd.features.guests import routes as guests
from labd.features.host import routes as host
from labd.features.images import profile_routes as profiles
from labd.features.images import routes as images
from labd.features.labs import edit_routes as edits
from labd.features.labs import routes as labs
from labd.features.leases import routes as leases
from labd.features.links import routes as wires
from labd.features.models import Problem
from labd.features.operations import routes as operations
from labd.features.plugins import routes as plugins
from labd.features.screens import routes as screens
from labd.features.serving import routes as addresses
from labd.features.templates import routes as templates
from labd.features.templates.port import TemplateFiles
from labd.features.usage import routes as usage
from labd.features.warm import routes as pools

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
    tokens,
)
_PROBLEM = {"model": Problem, "content": {problems.MEDIA_TYPE: {}}}


def create_app(
    engine: EngineApi,
    template_files: TemplateFiles,
    *,
    version: str,
    tokens: TokenCheck,
    admin_socket: Path,
    people_socket: Path | None = None,
    users: UserRoles | None = None,
    hosts: Collection[str] = (),
    student: Bounds = STUDENT,
) -> FastAPI:
    """Make the app.

    Args:
        engine: What does the work.
        template_files: Compiles templates and lists the shipped ones.
        version: labd's own, for `/v1/info` and the OpenAPI document.
        tokens: Knows the bearer tokens of plugins.
        admin_socket: Peers of this unix socket are administrators.
        people_socket: Here people have a token, or are known as users of the host; by default
            beside `admin_socket`. Any other unix socket is for plugins, TCP for people's tokens.
        users: Roles of users of the host.
        hosts: Names of this daemon that requests over TCP may use, besides its addresses.
        student: How much one student may ask.
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
    wrong: dict[int | str, dict[str, object]] = {
        code: {**_PROBLEM, "description": text}
        for code, text in {
            "4XX": "The request is wrong, or the present state forbids it",
            "5XX": "The world failed",
        }.items()
    }
    for module in _MODULES:
        check_routes(getattr(route, "name", "") for route in module.router.routes)
        check_paths(getattr(route, "path", "") for route in module.router.routes)
        # Not by way of a router in between: each level is searched twice for each request.
        app.include_router(
            module.router, prefix="/v1", dependencies=[Depends(authorise)], responses=wrong
        )
    problems.install(app)
    authenticators = Authenticators(
        admin=admin_socket,
        people=people_socket or admin_socket.with_name("people.sock"),
        plugins=tokens,
        users=users or UserRoles(),
        hosts=frozenset(hosts),
    )
    app.add_middleware(
        Gate, access=engine.access, authenticators=authenticators, bounds=bounds_of(student)
    )
    return app
