"""Rules of routes: who may use them, and on what.

Each route states its rule in its own decorator:

    @router.get("/{lab}")
    @requires(Scope.LABS_READ, about=Thing.LAB)
    async def get_lab(lab: LabName, ...) -> Lab: ...

The object's name is the first parameter of the path. A route without a rule, or with a parameter
in its path and nothing about its object, keeps labd from starting (`check_route`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from starlette.routing import BaseRoute

from labd.model.people import Role, Thing

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


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


INCLUDED: Final[Mapping[Scope, frozenset[Scope]]] = {
    Scope.LABS_CONTROL: frozenset({Scope.LABS_READ}),
    Scope.IMAGES_WRITE: frozenset({Scope.IMAGES_READ}),
}
# Scopes of an instructor; on what is theirs alone.
INSTRUCTOR: Final = frozenset(
    {
        Scope.ANY,
        Scope.LABS_READ,
        Scope.LABS_CONTROL,
        Scope.LABS_CONSOLE,
        Scope.EVENTS_READ,
        Scope.IMAGES_READ,
    }
)
NOBODYS: Final = "nobody's"  # said of paths that name what has no owner: images, plugins, tokens
_RULE: Final = "labd_rule"  # attribute of an endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """Who may use a route, and on what.

    Attributes:
        scope: That a caller needs.
        about: Kind of the object that the path names; None: it names none, or one without owner.
        stated: Something was said about the object.
        creates: The object may be made by the request, so that it need not be there.
        reads: It changes nothing, though it is no GET.
        takes: It is a GET that reads what is inside a guest: on record, like a command.
        student: Students may use it, on their own labs.
        instructor: Instructors may use it, whatever its scope, on what is theirs.
    """

    scope: Scope
    about: Thing | None = None
    stated: bool = False
    creates: bool = False
    reads: bool = False
    takes: bool = False
    student: bool = False
    instructor: bool = False

    def lets(self, role: Role, scopes: frozenset[str]) -> bool:
        """True if a caller of this role may use the route at all; `scopes` are a plugin's."""
        if role is Role.ADMINISTRATOR:
            return True
        if role is Role.INSTRUCTOR:
            return self.scope in INSTRUCTOR or self.instructor
        if role is Role.STUDENT:
            return self.student
        if self.scope is Scope.PEOPLE_ADMIN:
            return False
        if self.scope is Scope.ANY or self.scope in scopes:
            return True
        return any(self.scope in more and has in scopes for has, more in INCLUDED.items())


def requires(
    scope: Scope,
    *,
    about: Thing | str | None = None,
    creates: bool = False,
    reads: bool = False,
    takes: bool = False,
    student: bool = False,
    instructor: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that gives a route its rule; for the arguments see `RouteRule`.

    `about` is `NOBODYS` where the path names something that has no owner.
    """
    rule = RouteRule(
        scope=scope,
        about=about if isinstance(about, Thing) else None,
        stated=about is not None,
        creates=creates,
        reads=reads,
        takes=takes,
        student=student,
        instructor=instructor,
    )

    def state(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _RULE, rule)
        return endpoint

    return state


def rule_of(route: BaseRoute) -> RouteRule:
    """Return the rule of a route.

    Raises:
        LookupError: It has none.
    """
    rule = getattr(getattr(route, "endpoint", None), _RULE, None)
    if not isinstance(rule, RouteRule):
        raise LookupError(f"the route {getattr(route, 'name', route)} does not state its scope")
    return rule


def parameter_of(path: str) -> str:
    """Return the first parameter of a path, which names its object; empty without one."""
    return path.partition("{")[2].partition("}")[0].partition(":")[0]


def check_route(route: BaseRoute) -> None:
    """Refuse a route that does not state who may use it, and on what.

    Raises:
        LookupError: A fault of the program, found when it starts.
    """
    path = str(getattr(route, "path", ""))
    if parameter_of(path) and not rule_of(route).stated:
        raise LookupError(f"the route {path} does not state whose the objects of its path are")
    if not parameter_of(path) and rule_of(route).about is not None:
        raise LookupError(f"the path of the route {path} names no {rule_of(route).about}")
