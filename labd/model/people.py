"""Who may ask for what, and who asks at this moment.

`Asked` goes along with the task of a request (contextvars): what a request makes belongs to who
asked, and the inventory signs the first transaction of a request with it, so that a change and the
word on who made it are one commit. What labd does by itself is asked by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from labd.model.events import EventDraft, EventType


class Role(StrEnum):
    """What kind of caller somebody is."""

    ADMINISTRATOR = "administrator"  # everything
    INSTRUCTOR = "instructor"  # labs, classes and checkpoints of their own
    STUDENT = "student"  # the nodes of the labs that their token is for
    PLUGIN = "plugin"  # the scopes of its manifest


class Outcome(StrEnum):
    """What became of a request."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # the caller may not do it, or asked too often
    FAILED = "failed"  # it cannot be done, or the world failed


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLab:
    """A lab that a token is good for; another lab of the same name is not meant."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A bearer token of a person. The token itself is kept nowhere.

    Attributes:
        name: Unique; of an instructor, the name of what they own. Tokens of classes are
            `CLASS.STUDENT`.
        role: Not `plugin`: those get theirs when they start.
        hash: sha256 of the token, in hex.
        labs: Of a student. The token goes with the last of them.
        group: The class whose student it is for, or empty.
        created, expires: RFC 3339 UTC; `expires` empty for a token that does not.
        generation: How often the token of a student of a class was renewed.
    """

    name: str
    role: Role
    hash: str
    labs: tuple[TokenLab, ...] = ()
    group: str = ""
    created: str = ""
    expires: str = ""
    generation: int = 0


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request, and who makes it.

    Attributes:
        actor: For people, such as `user anna`, `token anna` or `plugin watchdog`.
        owner: To whom what the request makes belongs; empty: to the administrators.
        action: The name of the route.
        about: Its object, such as `lab web`.
        lab, node: What it is about, if it is one.
        reads: It changes nothing.
        told: That it was asked is written.
    """

    actor: str
    role: Role
    owner: str = ""
    action: str = ""
    about: str = ""
    lab: str = ""
    node: str = ""
    reads: bool = True
    told: bool = False

    @property
    def pending(self) -> bool:
        """Whether it is still to be written that it was asked."""
        return not (self.reads or self.told)

    def draft(
        self, outcome: Outcome, operation: str = "", more: Mapping[str, object] | None = None
    ) -> EventDraft:
        """Return what is told of it."""
        data: dict[str, object] = {
            "actor": self.actor,
            "role": str(self.role),
            "action": self.action,
            "object": self.about,
            "outcome": str(outcome),
            **(more or {}),
        }
        return EventDraft(
            type=EventType.AUDIT_REQUEST,
            lab=self.lab,
            node=self.node,
            operation=operation,
            data=data,
        )


class Thing(StrEnum):
    """What belongs to somebody."""

    LAB = "lab"
    CLASS = "class"
    CHECKPOINT = "checkpoint"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Whose an object is.

    Attributes:
        owner: Empty: the administrators'.
        key: Of the lab that it is, or is about; empty for what is of no lab.
    """

    owner: str = ""
    key: str = ""


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)


def asked_now() -> Asked | None:
    """Return the request of this task, None for what labd does by itself."""
    return _ASKED.get()


def owner_now() -> str:
    """Return to whom belongs what is made now; empty: to the administrators."""
    asked = _ASKED.get()
    return asked.owner if asked is not None else ""


@contextmanager
def asking(asked: Asked) -> Iterator[Asked]:
    """Do what is in the block, and in tasks that it starts, for a caller."""
    before = _ASKED.set(asked)
    try:
        yield asked
    finally:
        _ASKED.reset(before)


def on_behalf(owner: str) -> Asked:
    """Return the request by which labd goes on with what an owner began."""
    return Asked(actor="labd", role=Role.ADMINISTRATOR, owner=owner)
