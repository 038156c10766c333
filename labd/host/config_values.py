"""Checks of single values of labd.toml: each returns the value, or raises why it is wrong.

A ValueError says what to write instead; `labd.host.config` puts file, line and key before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

UID_BLOCK: Final = 1024
INTERFACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
GROUP: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_UID_FLOOR = 100_000
_UID_LAST = (1 << 31) - 1 - UID_BLOCK
_PUBLIC_KEY = re.compile(
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp\d{3}|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)"
    r"@openssh\.com) [A-Za-z0-9+/]{32,}={0,3}(?: [ -~]*)?"
)
_TRANSIT_WIDEST, _TRANSIT_LONGEST = 8, 28


def shown(value: object) -> str:
    """Return a value for a message, short and as TOML has it."""
    said = repr(value) if not isinstance(value, bool) else str(value).lower()
    return said if len(said) <= 60 else said[:57] + "..."


def text(value: object) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise ValueError("must be a string in quotes")
    return value


def matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    """Return a check for strings that match a pattern; `what` says what they are."""

    def check(value: object) -> str:
        if not pattern.fullmatch(text(value)):
            raise ValueError(f"is not {what}")
        return text(value)

    return check


def one_of(*choices: str) -> Callable[[object], str]:
    """Return a check for one of some words."""

    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text(value)

    return check


def number(low: int, high: int) -> Callable[[object], int]:
    """Return a check for a whole number from `low` to `high`."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}")
        return value

    return check


def uid_base(value: object) -> int:
    """Return the first user id of machines; 0 lets labd choose."""
    base = number(0, _UID_LAST)(value)
    if base and base < _UID_FLOOR:
        raise ValueError(f"must be 0 or {_UID_FLOOR} to {_UID_LAST}, away from real users")
    return base


def absolute(value: object) -> Path:
    """Return an absolute path."""
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def file(value: object) -> Path | None:
    """Return the path of a file, None for an empty string."""
    return None if value == "" else absolute(value)


def list_of(check: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    """Return a check for a list of values that each pass another."""

    def check_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError('must be a list, like ["a", "b"]')
        return tuple(check(item) for item in value)

    return check_all


def public_key(value: object) -> str:
    """Return a line of authorized_keys (sshd(8)); options before the key are not taken."""
    line = text(value).strip()
    if not _PUBLIC_KEY.fullmatch(line):
        raise ValueError('is no OpenSSH public key, like "ssh-ed25519 AAAA… name"')
    return line


def subnet(value: object) -> IPv4Network:
    """Return an IPv4 subnet."""
    written = text(value)
    try:
        return IPv4Network(written)
    except ValueError:
        raise ValueError("must be IPv4 subnets, like 10.0.0.0/8") from None


def transit(value: object) -> IPv4Network:
    """Return the subnet from which labs get their way to the host."""
    found = subnet(value)
    if not _TRANSIT_WIDEST <= found.prefixlen <= _TRANSIT_LONGEST:
        raise ValueError(f"must have a prefix length of {_TRANSIT_WIDEST} to {_TRANSIT_LONGEST}")
    return found


def broker_url(value: object) -> str:
    """Return the URL of an MQTT broker, or an empty string."""
    written = text(value)
    if written:
        url = urlsplit(written)
        if url.scheme not in {"mqtt", "mqtts"} or not url.hostname or url.path.strip("/"):
            raise ValueError("must be like mqtt://host:1883 or mqtts://host:8883")
        if url.username or url.password:
            raise ValueError("must not hold credentials: use username and password_file")
        _ = url.port  # a ValueError of its own when it is no number from 0 to 65535
    return written
