"""The app: routers, gate and problems put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from labd.api import problems
from labd.api.authenticators import Authenticators, UserRoles
from labd.api.callers import Access, TokenCheck
from labd.api.gate import Gate
from labd.api.limits import STUDENT, Bounds, bounds_of
from labd.api.models import Problem
from labd.api.policy import authorise
from labd.api.rules import check_route
from labd.api.services import Services, attach

_PROBLEM = {"model": Problem, "content": {problems.MEDIA_TYPE: {}}}
_WRONG: Mapping[int | str, dict[str, Any]] = {
    code: {**_PROBLEM, "description": text}
    for code, text in {
        "4XX": "The request is wrong, or the present state forbids it",
        "5XX": "The world failed",
    }.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """How one daemon serves its API.

    Attributes:
        version: labd's own, for `/v1/info` and the OpenAPI document.
        tokens: Knows the bearer tokens of plugins.
        admin_socket: Peers of this unix socket are administrators.
        people_socket: Here people have a token, or are known as users of the host; by default
            beside `admin_socket`. Any other unix socket is for plugins, TCP for people's tokens.
        users: Roles of users of the host.
        hosts: Names of this daemon that requests over TCP may use, besides its addresses.
        student: How much one student may ask.
    """

    version: str
    tokens: TokenCheck
    admin_socket: Path
    people_socket: Path | None = None
    users: UserRoles = field(default_factory=UserRoles)
    hosts: Collection[str] = ()
    student: Bounds = STUDENT

    @property
    def authenticators(self) -> Authenticators:
        """Who comes in by which socket."""
        return Authenticators(
            admin=self.admin_socket,
            people=self.people_socket or self.admin_socket.with_name("people.sock"),
            plugins=self.tokens,
            users=self.users,
            hosts=frozenset(self.hosts),
        )


def create_app(
    routers: Iterable[APIRouter], services: Iterable[object], access: Access, settings: AppSettings
) -> FastAPI:
    """Make the app.

    Args:
        routers: Of the features.
        services: What the routes work with, one of each type; see `labd.api.services`.
        access: Knows the tokens of people and whose things are, and keeps the record.
        settings: Of this daemon.

    Raises:
        LookupError: A route does not state who may use it, or on what: a fault of the program.
    """
    app = _fast_api(settings.version)
    attach(app, Services(services, version=settings.version))
    app.state.access = access
    for router in routers:
        for route in router.routes:
            check_route(route)
        # Not by way of a router in between: each level is searched twice for each request.
        app.include_router(
            router, prefix="/v1", dependencies=[Depends(authorise)], responses=dict(_WRONG)
        )
    problems.install(app)
    app.add_middleware(
        Gate,
        access=access,
        authenticators=settings.authenticators,
        bounds=bounds_of(settings.student),
    )
    return app


def _fast_api(version: str) -> FastAPI:
    return FastAPI(
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
