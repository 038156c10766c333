"""Names of things, and the addresses that are made of them.

Every name that a person chooses matches `NAME`. Everything is addressed as `LAB`, `LAB/NODE` or
`LAB/NODE/NIC`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from labd.model.errors import InputError

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
_NAME = re.compile(NAME_PATTERN.replace("$", r"\Z"))


def is_name(text: object) -> bool:
    """True if `text` is a valid name; a trailing newline is not forgiven."""
    return isinstance(text, str) and _NAME.match(text) is not None


def check_name(text: str, what: str) -> str:
    """Return `text` when it is a valid name.

    Args:
        text: The name to check.
        what: The noun for the message, such as `lab` or `node`.

    Raises:
        InputError: It is not; the message says what to write instead.
    """
    if is_name(text):
        return text
    raise InputError(
        f"{what} name {text[:64]!r} is not valid: use 1 to 31 of a-z, 0-9 and '-', "
        "beginning with a letter",
        name=text[:64],
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` most likely meant, or None when nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` or, with nothing near, the list of known words."""
    known = sorted(known)
    near = nearest(word, known)
    if near is not None:
        return f"; did you mean '{near}'?"
    return f"; known: {', '.join(known)}" if known else ""


@dataclass(frozen=True, slots=True, order=True)
class NodeRef:
    """`LAB/NODE`."""

    lab: str
    node: str

    def __str__(self) -> str:
        return f"{self.lab}/{self.node}"

    @classmethod
    def parse(cls, text: str) -> NodeRef:
        """Read `LAB/NODE`.

        Raises:
            InputError: There are not exactly two parts, or a part is no name.
        """
        lab, slash, node = text.partition("/")
        if not slash or "/" in node:
            raise InputError(f"{text[:80]!r} is not LAB/NODE; write it like web/server")
        return cls(check_name(lab, "lab"), check_name(node, "node"))


def stable_mac(template: str, node: str, nic: str) -> str:
    """Return the MAC address of a NIC, the same in each lab of one template.

    It is locally administered and unicast (IEEE 802c: second hex digit is 2).

    Returns:
        Six lower-case hex octets joined by colons; the first is `02`.
    """
    digest = hashlib.sha256(f"labd-mac\0{template}\0{node}\0{nic}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (2, *digest[:5]))
