"""Who calls, and what each route needs: the one table of scopes, checked for every route.

A role says which routes a caller may use at all; `labd.api.policy` says on which objects. What a
caller may not see is answered like what is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from labd.features.facade import EngineApi
from labd.features.templates.port import TemplateFiles
from labd.model.errors import Forbidden
from labd.model.people import Role


class Scope(StrEnum):
    """What a caller may be allowed to do. A plugin asks for scopes in its manifest."""

    ANY = "any"  # whoever was let in
    LABS_READ = "labs:read"
    LABS_CONTROL = "labs:control"  # includes labs:read
    LABS_CONSOLE = "labs:console"
    EVENTS_READ = "events:read"
    IMAGES_READ = "images:read"
    IMAGES_WRITE = "images:write"
    HOST_READ = "host:read"
    HOST_WRITE = "host:write"
    PLUGINS_ADMIN = "plugins:admin"
    PEOPLE_ADMIN = "people:admin"  # of administrators only


_INCLUDED: Mapping[Scope, frozenset[Scope]] = {
    Scope.LABS_CONTROL: frozenset({Scope.LABS_READ}),
    Scope.IMAGES_WRITE: frozenset({Scope.IMAGES_READ}),
}

# Every route by its name; `create_app` refuses to make an app with a route that is missing here.
ROUTE_SCOPES: Mapping[str, Scope] = {
    "get_info": Scope.ANY,
    "get_caller": Scope.ANY,
    "list_tokens": Scope.PEOPLE_ADMIN,
    "create_token": Scope.PEOPLE_ADMIN,
    "revoke_token": Scope.PEOPLE_ADMIN,
    "hand_out_tokens": Scope.PEOPLE_ADMIN,
    "get_doctor": Scope.HOST_READ,
    "get_differences": Scope.HOST_READ,
    "repair": Scope.HOST_WRITE,
    "validate_template": Scope.LABS_READ,
    "get_template_schema": Scope.LABS_READ,
    "list_template_parameters": Scope.LABS_READ,
    "list_templates": Scope.LABS_READ,
    "get_template": Scope.LABS_READ,
    "list_labs": Scope.LABS_READ,
    "get_lab": Scope.LABS_READ,
    "list_addresses": Scope.LABS_READ,
    "up_lab": Scope.LABS_CONTROL,
    "plan_lab": Scope.LABS_READ,
    "act_on_lab": Scope.LABS_CONTROL,
    "get_node": Scope.LABS_READ,
    "get_node_lines": Scope.LABS_CONSOLE,
    "get_node_log": Scope.LABS_CONSOLE,
    "attach_console": Scope.LABS_CONSOLE,
    "list_disks": Scope.LABS_READ,
    "add_disk": Scope.LABS_CONTROL,
    "detach_disk": Scope.LABS_CONTROL,
    "set_cdrom": Scope.LABS_CONTROL,
    "add_node": Scope.LABS_CONTROL,
    "remove_node": Scope.LABS_CONTROL,
    "get_usage": Scope.LABS_READ,
    "get_lab_usage": Scope.LABS_READ,
    "execute": Scope.LABS_CONSOLE,
    "read_file": Scope.LABS_CONSOLE,
    "write_file": Scope.LABS_CONSOLE,
    "get_screenshot": Scope.LABS_CONSOLE,
    "type_keys": Scope.LABS_CONSOLE,
    "attach_viewer": Scope.LABS_CONSOLE,
    "attach_capture": Scope.LABS_CONSOLE,
    "list_wires": Scope.LABS_READ,
    "set_wires": Scope.LABS_CONTROL,
    "reset_wires": Scope.LABS_CONTROL,
    "get_ssh_key": Scope.LABS_CONSOLE,
    "attach_node_port": Scope.LABS_CONSOLE,
    "attach_host_port": Scope.LABS_CONSOLE,
    "list_operations": Scope.LABS_READ,
    "get_operation": Scope.LABS_READ,
    "list_events": Scope.EVENTS_READ,
    "list_checkpoints": Scope.LABS_READ,
    "get_checkpoint": Scope.LABS_READ,
    "export_checkpoint": Scope.LABS_CONTROL,
    "import_checkpoint": Scope.LABS_CONTROL,
    "save_checkpoint": Scope.LABS_CONTROL,
    "remove_checkpoint": Scope.LABS_CONTROL,
    "fork_checkpoint": Scope.LABS_CONTROL,
    "turn_chapter": Scope.LABS_CONTROL,
    "restore_lab": Scope.LABS_CONTROL,
    "list_pools": Scope.LABS_READ,
    "get_pool": Scope.LABS_READ,
    "warm_pool": Scope.LABS_CONTROL,
    "cool_pool": Scope.LABS_CONTROL,
    "list_classes": Scope.LABS_READ,
    "get_class": Scope.LABS_READ,
    "start_class": Scope.LABS_CONTROL,
    "add_students": Scope.LABS_CONTROL,
    "extend_class": Scope.LABS_CONTROL,
    "stop_class": Scope.LABS_CONTROL,
    "destroy_class": Scope.LABS_CONTROL,
    "list_activity": Scope.LABS_READ,
    "get_activity": Scope.LABS_READ,
    "warn_lab": Scope.LABS_CONTROL,
    "list_leases": Scope.LABS_READ,
    "get_lease": Scope.LABS_READ,
    "set_lease": Scope.LABS_CONTROL,
    "extend_lease": Scope.LABS_CONTROL,
    "cancel_lease": Scope.LABS_CONTROL,
    "list_images": Scope.IMAGES_READ,
    "get_image": Scope.IMAGES_READ,
    "upload_image": Scope.IMAGES_WRITE,
    "import_image": Scope.IMAGES_WRITE,
    "build_image": Scope.IMAGES_WRITE,
    "remove_image": Scope.IMAGES_WRITE,
    "list_profiles": Scope.IMAGES_READ,
    "get_profile": Scope.IMAGES_READ,
    "add_profile": Scope.IMAGES_WRITE,
    "remove_profile": Scope.IMAGES_WRITE,
    "list_plugins": Scope.PLUGINS_ADMIN,
    "set_plugin": Scope.PLUGINS_ADMIN,
    "get_plugin_log": Scope.PLUGINS_ADMIN,
}


# Scopes of an instructor; on what is theirs alone.
_INSTRUCTOR = frozenset(
    {
        Scope.ANY,
        Scope.LABS_READ,
        Scope.LABS_CONTROL,
        Scope.LABS_CONSOLE,
        Scope.EVENTS_READ,
        Scope.IMAGES_READ,
    }
)
# Routes that need more than these, and are an instructor's on a class of theirs.
_INSTRUCTOR_ROUTES = frozenset({"hand_out_tokens"})
# All that a student may ask, of the labs of the token; `act_on_lab` takes less than all actions.
_STUDENT_ROUTES = frozenset(
    {
        "get_info",
        "get_caller",
        "list_labs",
        "get_lab",
        "list_addresses",
        "list_activity",
        "get_activity",
        "get_node",
        "get_node_lines",
        "get_node_log",
        "attach_console",
        "execute",
        "read_file",
        "write_file",
        "get_screenshot",
        "type_keys",
        "attach_viewer",
        "get_ssh_key",
        "attach_node_port",
        "attach_host_port",
        "act_on_lab",
        "restore_lab",
        "get_lease",
        "list_wires",
        "list_operations",
        "get_operation",
        "list_events",
    }
)
# What a student may do to nodes; to the lab as a whole only the last.
STUDENT_ACTIONS = frozenset({"start", "stop", "restart", "reset"})
STUDENT_LAB_ACTION = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who made a request.

    Attributes:
        name: For logs and messages, such as `user root`, `token anna` or `plugin watchdog`.
        role: What kind of caller.
        scopes: What a plugin may do, as text; words that no route needs are harmless.
        owner: Of an instructor: the name under which their things are kept.
        labs: Of a student: the keys of the labs that there are.
        token: sha256 of the token of a person, or empty.
    """

    name: str
    role: Role = Role.PLUGIN
    scopes: frozenset[str] = frozenset()
    owner: str = ""
    labs: frozenset[str] = frozenset()
    token: str = ""

    @property
    def sees_all(self) -> bool:
        """Whether every object is visible; plugins are bound by scopes instead."""
        return self.role in {Role.ADMINISTRATOR, Role.PLUGIN}

    def may(self, route: str) -> bool:
        """Tell whether the caller may use a route at all."""
        scope = ROUTE_SCOPES[route]
        if self.role is Role.ADMINISTRATOR:
            return True
        if self.role is Role.INSTRUCTOR:
            return scope in _INSTRUCTOR or route in _INSTRUCTOR_ROUTES
        if self.role is Role.STUDENT:
            return route in _STUDENT_ROUTES
        if scope is Scope.PEOPLE_ADMIN:
            return False
        if scope is Scope.ANY or scope in self.scopes:
            return True
        return any(scope in more and has in self.scopes for has, more in _INCLUDED.items())


class TokenHolder(Protocol):
    """Whom a token was given to."""

    @property
    def name(self) -> str:
        """For logs and messages, such as `plugin watchdog`."""

    @property
    def scopes(self) -> Collection[str]:
        """What it may do."""


class TokenCheck(Protocol):
    """Knows the bearer tokens that are valid at present."""

    def __call__(self, token: str, /) -> TokenHolder | None:
        """Return who holds `token`, or None when nobody does. Must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with; kept in `app.state.services`.

    Attributes:
        closing: Set when the server stops, so that streams end by themselves.
    """

    engine: EngineApi
    templates: TemplateFiles
    version: str
    closing: asyncio.Event


def services(connection: HTTPConnection) -> Services:
    """Return the services of the app that serves this connection."""
    found: Services = connection.app.state.services
    return found


def caller(connection: HTTPConnection) -> Caller:
    """Return who was let in by the gate."""
    found: Caller = connection.scope["labd.caller"]
    return found


def require_route(who: Caller, route: str) -> None:
    """Let a caller pass who may use a route.

    Raises:
        Forbidden: They may not; the message names the scope.
    """
    scope = ROUTE_SCOPES[route]
    if who.may(route):
        return
    if who.role is Role.PLUGIN:
        raise Forbidden(
            f"{who.name} may not do this: its manifest would have to ask for the scope {scope}",
            scope=str(scope),
        )
    raise Forbidden(
        f"{who.name} may not do this with the role {who.role}; ask who gave you the token",
        scope=str(scope),
    )


def engine(connection: HTTPConnection) -> EngineApi:
    """Return the engine."""
    return services(connection).engine


CallerDep = Annotated[Caller, Depends(caller)]
EngineDep = Annotated[EngineApi, Depends(engine)]
ServicesDep = Annotated[Services, Depends(services)]


def check_routes(names: Iterable[str]) -> None:
    """Refuse an app with a route whose scope nobody has thought of.

    Raises:
        LookupError: Names the routes; a fault of the program, found when it starts.
    """
    unknown = sorted(set(names) - set(ROUTE_SCOPES))
    if unknown:
        raise LookupError(f"routes without a scope in ROUTE_SCOPES: {', '.join(unknown)}")


def attach(app: FastAPI, found: Services) -> None:
    """Give an app its services."""
    app.state.services = found
