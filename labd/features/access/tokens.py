"""Tokens of people: made, derived and judged. Pure, but for the randomness of new ones."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from labd.model.people import Role, TokenLab, TokenRecord
from labd.model.records import LabRecord

PREFIX = "labd_"


def new_token() -> str:
    """Return a token that nobody can guess: 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """Return what is kept of a token. It is no password, so that no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def derived(secret: bytes, key: str, generation: int) -> str:
    """Return the token of a student's lab (RFC 2104).

    It follows from the lab's key, so that a class's tokens can be printed again and are the same,
    though none is kept; a new generation is another one.
    """
    mac = hmac.digest(secret, f"student {key} {generation}".encode(), "sha256")
    return PREFIX + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def class_token(
    secret: bytes, group: str, student: str, lab: LabRecord, *, created: str, generation: int = 0
) -> TokenRecord:
    """Return the record of the token of a student's lab."""
    return TokenRecord(
        name=f"{group}.{student}",
        role=Role.STUDENT,
        hash=digest(derived(secret, lab.key, generation)),
        labs=(TokenLab(name=lab.name, key=lab.key),),
        group=group,
        created=created,
        generation=generation,
    )


def stamp(wall: float) -> str:
    """Return a Unix time as RFC 3339 UTC, which sorts as it comes."""
    found = dt.datetime.fromtimestamp(wall, dt.UTC)
    return found.isoformat(timespec="microseconds").replace("+00:00", "Z")


def is_over(record: TokenRecord, wall: float) -> bool:
    """True if a token has expired; by the wall clock, which people and NTP set."""
    return bool(record.expires) and record.expires <= stamp(wall)


def living(record: TokenRecord, labs: Mapping[str, str]) -> tuple[TokenLab, ...]:
    """Return those labs of a token that are there (name -> key)."""
    return tuple(lab for lab in record.labs if labs.get(lab.name) == lab.key)
