"""What a caller may see: authorisation on the object, for every route and every list.

Which object a request is about is said by its route's rule (`labd.api.rules`), and named by the
first parameter of its path.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from labd.api.callers import Access, Caller, caller
from labd.api.rules import RouteRule, parameter_of, rule_of
from labd.model.errors import Conflict, NotFound
from labd.model.events import Event
from labd.model.people import Asked, Owned, Role, Thing, asked_now
from labd.model.records import LabRecord

# What students are not told, though it is about their lab.
_NOT_FOR_STUDENTS = ("audit.", "token.")


class AuthorisationPolicy:
    """What one caller may see."""

    def __init__(self, who: Caller, access: Access) -> None:
        self._who = who
        self._access = access

    def owned(self, of: Owned) -> bool:
        """True if the caller may see what belongs so."""
        who = self._who
        if who.role is Role.INSTRUCTOR:
            return bool(who.owner) and of.owner == who.owner
        return who.sees_all or (bool(of.key) and of.key in who.labs)

    def lab(self, record: LabRecord) -> bool:
        """True if the caller may see a lab."""
        return self.owned(Owned(owner=record.owner, key=record.key))

    async def labs(self) -> list[str]:
        """Return the names of the labs that the caller may see."""
        return [lab.name for lab in await self._access.labs() if self.lab(lab)]

    def own(self, owner: str) -> bool:
        """True if the caller may see what is no lab and has this owner."""
        return self.owned(Owned(owner=owner))

    def event(self, event: Event) -> bool:
        """True if the caller may be told an event."""
        if self._who.role is Role.STUDENT and event.draft.type.startswith(_NOT_FOR_STUDENTS):
            return False
        return self.owned(Owned(owner=event.owner, key=event.lab_key))

    async def require(self, kind: Thing, name: str) -> None:
        """Let a request pass whose object the caller may see.

        Raises:
            NotFound: There is none, or it is another's; which of both is not told.
        """
        if self._who.sees_all:
            return  # what is not there is told by the engine, with near names
        of = await self._access.owned(kind, name)
        if of is None or not self.owned(of):
            raise NotFound(f"there is no {kind} {name[:64]}")

    async def require_free(self, kind: Thing, name: str) -> None:
        """Let a request pass whose object the caller may see, or may make.

        Raises:
            Conflict: It is another's. Names are of the whole host, so that this cannot be hidden.
        """
        of = None if self._who.sees_all else await self._access.owned(kind, name)
        if of is not None and not self.owned(of):
            raise Conflict(f"the name {name[:64]} is taken; choose another name for the {kind}")


def policy(connection: HTTPConnection) -> AuthorisationPolicy:
    """Return what the caller of this connection may see."""
    access: Access = connection.app.state.access
    return AuthorisationPolicy(caller(connection), access)


PolicyDep = Annotated[AuthorisationPolicy, Depends(policy)]


async def authorise(connection: HTTPConnection) -> None:
    """Let a request pass that its caller may make on its object; a dependency of every route.

    Raises:
        Forbidden: The role or the scopes do not allow the route, on whatever object.
        NotFound, Conflict: See `AuthorisationPolicy`.
    """
    route = connection.scope["route"]
    rule = rule_of(route)
    _note(connection, rule, asked_now())
    caller(connection).require(rule)
    if rule.about is None:
        return
    name = str(connection.path_params[parameter_of(route.path_format.removeprefix("/v1"))])
    allowed = policy(connection)
    if rule.creates:
        await allowed.require_free(rule.about, name)
    else:
        await allowed.require(rule.about, name)


def note(about: str) -> None:
    """Say what a request is about whose path does not, for the record of requests."""
    asked = asked_now()
    if asked is not None:
        asked.about = about


def _note(connection: HTTPConnection, rule: RouteRule, asked: Asked | None) -> None:
    """Fill in what is asked, for the record of requests."""
    if asked is None:
        return
    params = connection.path_params
    asked.action = connection.scope["route"].name
    asked.lab = str(params.get("lab", ""))[:64]
    asked.node = str(params.get("node", ""))[:64]
    words = [str(value)[:64] for value in params.values()]
    asked.about = " ".join([str(rule.about or ""), "/".join(words)]).strip()
    asked.reads = not rule.takes and (asked.reads or rule.reads)
