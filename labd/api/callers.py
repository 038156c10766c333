"""Who calls: the value that the gate leaves with each connection.

A role says which routes a caller may use at all (`labd.api.rules`); `labd.api.policy` says on
which objects. What a caller may not see is answered like what is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from labd.api.rules import RouteRule
from labd.model.errors import Forbidden
from labd.model.people import Asked, Outcome, Owned, Role, Thing, TokenRecord
from labd.model.records import LabRecord


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

    def require(self, rule: RouteRule) -> None:
        """Raise Forbidden if the caller may not use a route; the message names the scope."""
        if rule.lets(self.role, self.scopes):
            return
        if self.role is Role.PLUGIN:
            raise Forbidden(
                f"{self.name} may not do this: its manifest would have to ask for the scope "
                f"{rule.scope}",
                scope=str(rule.scope),
            )
        raise Forbidden(
            f"{self.name} may not do this with the role {self.role}; ask who gave you the token",
            scope=str(rule.scope),
        )


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


class Access(Protocol):
    """What the API asks of whoever keeps tokens and owners (`labd.features.access`)."""

    async def holder(self, hash: str) -> TokenRecord | None:
        """Return the token of this sha256 with the labs that are there; None unless it is good."""

    async def owned(self, kind: Thing, name: str) -> Owned | None:
        """Return whose a thing is, None when there is none."""

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs."""

    async def report(self, asked: Asked, outcome: Outcome, more: Mapping[str, object]) -> None:
        """Write that somebody asked for something, when no change has told it."""


def caller(connection: HTTPConnection) -> Caller:
    """Return who was let in by the gate."""
    found: Caller = connection.scope["labd.caller"]
    return found


CallerDep = Annotated[Caller, Depends(caller)]
