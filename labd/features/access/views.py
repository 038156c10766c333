"""What the service of tokens returns."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.people import TokenRecord


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
