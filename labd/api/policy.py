"""What a caller may see: authorisation on the object, for every route and every list.

Which object a request is about follows from its path: `/v1/labs/{lab}/…` is about a lab. A path of
another collection has to be told here, or the app is not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from labd.api.callers import Caller, caller, engine, require_route
from labd.features.access.views import Thing
from labd.features.facade import EngineApi
from labd.model.errors import Conflict, NotFound
from labd.model.events import Event
from labd.model.people import Asked, Owned, Role, asked_now
from labd.model.records import LabRecord

# First part of a path -> what its first parameter names; None: what belongs to nobody.
_COLLECTIONS: Mapping[str, Thing | None] = {
    "labs": Thing.LAB,
    "classes": Thing.CLASS,
    "checkpoints": Thing.CHECKPOINT,
    "pools": Thing.CHECKPOINT,
    "operations": Thing.OPERATION,
    "images": None,
    "profiles": None,
    "templates": None,
    "plugins": None,
    "tokens": None,
}
# Routes by which the object of their path may be made.
_CREATES = frozenset({"up_lab", "plan_lab", "import_checkpoint"})
# Requests that are no GET and change nothing.
_READS = frozenset({"plan_lab", "validate_template", "list_template_parameters"})
# GETs by which somebody gets into a guest, or takes home what is in it: on record like a command.
_TAKES = frozenset({"get_ssh_key", "read_file", "export_checkpoint"})
# What students are not told, though it is about their lab.
_NOT_FOR_STUDENTS = ("audit.", "token.")


class AuthorisationPolicy:
    """What one caller may see."""

    def __init__(self, who: Caller) -> None:
        self._who = who

    def owned(self, of: Owned) -> bool:
        """Tell whether the caller may see what belongs so."""
        who = self._who
        if who.role is Role.INSTRUCTOR:
            return bool(who.owner) and of.owner == who.owner
        return who.sees_all or (bool(of.key) and of.key in who.labs)

    def lab(self, record: LabRecord) -> bool:
        """Tell whether the caller may see a lab."""
        return self.owned(Owned(owner=record.owner, key=record.key))

    async def labs(self, found: EngineApi) -> list[str]:
        """Return the names of the labs that the caller may see."""
        return [lab.name for lab, _ in await found.labs() if self.lab(lab)]

    def own(self, owner: str) -> bool:
        """Tell whether the caller may see what is no lab and has this owner."""
        return self.owned(Owned(owner=owner))

    def event(self, event: Event) -> bool:
        """Tell whether the caller may be told an event."""
        if self._who.role is Role.STUDENT and event.draft.type.startswith(_NOT_FOR_STUDENTS):
            return False
        return self.owned(Owned(owner=event.owner, key=event.lab_key))

    async def require(self, found: EngineApi, kind: Thing, name: str) -> None:
        """Let a request pass whose object the caller may see.

        Raises:
            NotFound: There is none, or it is another's; which of both is not told.
        """
        if self._who.sees_all:
            return  # what is not there is told by the engine, with near names
        of = await found.access.owned(kind, name)
        if of is None or not self.owned(of):
            raise NotFound(f"there is no {kind} {name[:64]}")

    async def require_free(self, found: EngineApi, kind: Thing, name: str) -> None:
        """Let a request pass whose object the caller may see, or may make.

        Raises:
            Conflict: It is another's. Names are of the whole host, so that this cannot be hidden.
        """
        of = None if self._who.sees_all else await found.access.owned(kind, name)
        if of is not None and not self.owned(of):
            raise Conflict(f"the name {name[:64]} is taken; choose another name for the {kind}")


def policy(connection: HTTPConnection) -> AuthorisationPolicy:
    """Return what the caller of this connection may see."""
    return AuthorisationPolicy(caller(connection))


PolicyDep = Annotated[AuthorisationPolicy, Depends(policy)]


def thing_of(path: str) -> tuple[Thing, str] | None:
    """Return the kind of the object that a route's path is about, and its parameter.

    Raises:
        LookupError: Nobody has said whose the objects of this collection are.
    """
    parts = path.removeprefix("/v1").strip("/").split("/")
    place = next((index for index, part in enumerate(parts) if part.startswith("{")), None)
    if place is None:
        return None
    if place != 1 or parts[0] not in _COLLECTIONS:
        raise LookupError(f"labd/api/policy.py does not know whose the objects of {path} are")
    kind = _COLLECTIONS[parts[0]]
    return None if kind is None else (kind, parts[place].strip("{}"))


def check_paths(paths: Iterable[str]) -> None:
    """Refuse an app with a route whose objects belong to nobody knows whom.

    Raises:
        LookupError: A fault of the program, found when it starts.
    """
    for path in paths:
        thing_of(path)


async def authorise(connection: HTTPConnection) -> None:
    """Let a request pass that its caller may make on its object; a dependency of every route.

    Raises:
        Forbidden: The role or the scopes do not allow the route, on whatever object.
        NotFound, Conflict: See `Sight`.
    """
    route = connection.scope["route"]
    who = caller(connection)
    _note(connection, asked_now())
    require_route(who, route.name)
    about = thing_of(route.path_format)
    if about is None:
        return
    kind, parameter = about
    name = str(connection.path_params[parameter])
    if route.name in _CREATES:
        await AuthorisationPolicy(who).require_free(engine(connection), kind, name)
    else:
        await AuthorisationPolicy(who).require(engine(connection), kind, name)


def note(about: str) -> None:
    """Say what a request is about whose path does not, for the record of requests."""
    asked = asked_now()
    if asked is not None:
        asked.about = about


def _note(connection: HTTPConnection, asked: Asked | None) -> None:
    """Fill in what is asked, for the record of requests."""
    if asked is None:
        return
    route, params = connection.scope["route"], connection.path_params
    about = thing_of(route.path_format)
    asked.action = route.name
    asked.lab = str(params.get("lab", ""))[:64]
    asked.node = str(params.get("node", ""))[:64]
    words = [str(value)[:64] for value in params.values()]
    asked.about = " ".join([str(about[0]) if about else "", "/".join(words)]).strip()
    asked.reads = route.name not in _TAKES and (asked.reads or route.name in _READS)
