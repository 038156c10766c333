"""Who calls, and what each route needs: the one table of scopes, checked for every route.

A connection over the administrators' socket is an administrator: the file mode has let it in.
Any other connection needs a bearer token, whose scopes say what it may do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from labd.api.templates import TemplateFiles
from labd.engine.facade import EngineApi
from labd.model.errors import Forbidden


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


_INCLUDED: Mapping[Scope, frozenset[Scope]] = {
    Scope.LABS_CONTROL: frozenset({Scope.LABS_READ}),
    Scope.IMAGES_WRITE: frozenset({Scope.IMAGES_READ}),
}

# Every route by its name; `create_app` refuses to make an app with a route that is missing here.
ROUTE_SCOPES: Mapping[str, Scope] = {
    "get_info": Scope.ANY,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who made a request.

    Attributes:
        name: For logs and messages, such as `administrator` or `plugin watchdog`.
        scopes: What it may do, as text; words that no route needs are harmless.
        administrator: May do everything.
    """

    name: str
    scopes: frozenset[str] = frozenset()
    administrator: bool = False

    def may(self, scope: Scope) -> bool:
        """Tell whether the caller has a scope, or one that includes it."""
        if self.administrator or scope is Scope.ANY or scope in self.scopes:
            return True
        return any(scope in more and has in self.scopes for has, more in _INCLUDED.items())


ADMINISTRATOR = Caller(name="administrator", administrator=True)


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


def authorise(connection: HTTPConnection) -> None:
    """Let a request pass that has the scope of its route; a dependency of every route.

    Raises:
        Forbidden: It has not; the message names the scope.
    """
    who = caller(connection)
    scope = ROUTE_SCOPES[connection.scope["route"].name]
    if not who.may(scope):
        raise Forbidden(
            f"{who.name} may not do this: its manifest would have to ask for the scope {scope}",
            scope=str(scope),
        )


def engine(connection: HTTPConnection) -> EngineApi:
    """Return the engine."""
    return services(connection).engine


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
