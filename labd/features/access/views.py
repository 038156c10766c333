"""What the API may ask about who may do what: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from labd.model.people import Asked, Outcome, Owned, Role, TokenRecord


class Thing(StrEnum):
    """What belongs to somebody."""

    LAB = "lab"
    CLASS = "class"
    CHECKPOINT = "checkpoint"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token, whole: for this one answer.

    Attributes:
        record: What is kept of it.
        token: The token.
        student: Of a class, else empty.
        expires: RFC 3339; of a class's token the end of the lab's lease; empty for none.
    """

    record: TokenRecord
    token: str
    student: str = ""
    expires: str = ""


class AccessApi(Protocol):
    """Tokens of people, whose things are, and the record of who asked for what."""

    async def holder(self, hash: str) -> TokenRecord | None:
        """Return the token of this sha256 with the labs that are there; None unless it is good.

        A student's is good while one of its labs is there, and of a class while the lab's lease has
        not ended.
        """

    async def owned(self, kind: Thing, name: str) -> Owned | None:
        """Return whose a thing is, None when there is none."""

    async def all(self) -> Sequence[TokenRecord]:
        """Return all tokens by name."""

    async def create(
        self, name: str, role: Role, labs: Sequence[str], seconds: float | None
    ) -> NewToken:
        """Make a token.

        Args:
            name: Of the token; of an instructor, whose labs are those of this name.
            role: Not `plugin`.
            labs: Of a student, one at least; of all others none.
            seconds: Until it expires; None: never.

        Raises:
            Conflict: There is one of this name.
            InputError: Role and labs do not fit.
            NotFound: There is no such lab.
        """

    async def revoke(self, name: str) -> None:
        """Make a token void.

        Raises:
            NotFound: There is none.
        """

    async def hand_out(
        self, group: str, students: Sequence[str], *, renew: bool
    ) -> Sequence[NewToken]:
        """Return the tokens of a class's students who have a lab, or of some.

        They are the same each time; with `renew` they are others, and the old ones are void.

        Raises:
            NotFound: There is no such class, or student in it.
        """

    async def report(self, asked: Asked, outcome: Outcome, more: Mapping[str, object]) -> None:
        """Write that somebody asked for something, when no change has told it."""
