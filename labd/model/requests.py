"""What an operation was asked for: one frozen dataclass for each kind, told apart by its kind.

The request is the recovery record of an operation: with it a later daemon goes on, or takes back
what was done. A kind's class can stand anywhere; `register` makes it known to the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeVar


class OperationKind(StrEnum):
    """What was asked for."""

    UP = "up"
    DOWN = "down"
    DESTROY = "destroy"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    PAUSE = "pause"
    RESUME = "resume"
    RESET = "reset"
    CHECKPOINT = "checkpoint"
    FORK = "fork"
    RESTORE = "restore"
    EDIT = "edit"
    IMAGE_IMPORT = "image-import"
    IMAGE_BUILD = "image-build"
    UNKNOWN = "unknown"  # in a row of another labd; never asked for, and never carried on


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Base of the requests. The fields of a subclass are what is stored.

    Attributes:
        kind: The tag of the class in the stored JSON.
    """

    kind: ClassVar[OperationKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A stored request that this labd cannot read. Its operation is failed, not carried on.

    Attributes:
        text: The stored JSON, which is kept.
        why: One clause.
    """

    text: str
    why: str


_R = TypeVar("_R", bound=Request)
_CLASSES: dict[OperationKind, type[Request]] = {}


def register(request: type[_R]) -> type[_R]:
    """Make a class of requests known by its kind; a decorator.

    Raises:
        ValueError: Its kind has a class already.
    """
    if request.kind in _CLASSES:
        raise ValueError(f"requests of kind {request.kind} have two classes")
    _CLASSES[request.kind] = request
    return request


def class_of(kind: OperationKind) -> type[Request] | None:
    """Return the class of requests of a kind; None if no feature has registered one."""
    return _CLASSES.get(kind)
