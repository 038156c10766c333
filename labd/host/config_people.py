"""Sections of labd.toml about people: how they come in, and who they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from labd.host import config_values as values
from labd.host.listening import Endpoint
from labd.model.publish import ConnectionBounds

_USER = re.compile(r"@?[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")
_COUNT = values.number(1, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """Section `[api]`: the API over TCP, which is off without `listen`."""

    listen: Endpoint | None = None
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Section `[limits]`: how much one student may ask."""

    student_requests: int = 20
    student_streams: int = 32
    student_commands: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """Section `[publish]`: how many connections published ports have at one time."""

    port_connections: int = 128
    lab_connections: int = 512
    connections: int = 2048

    def bounds(self) -> ConnectionBounds:
        """Return them as the ports take them."""
        return ConnectionBounds(
            port=self.port_connections, lab=self.lab_connections, host=self.connections
        )


def why_not(api: ApiConfig) -> tuple[str, str]:
    """Return the key of `[api]` that is wrong beside the others, and why; empty when none is."""
    if api.listen is None:
        given = "certificate" if api.certificate else "key" if api.key else ""
        return given, f"{given} is of an API over TCP: add listen" if given else ""
    if (api.certificate is None) is not (api.key is None):
        return "listen", "certificate and key go together: give both"
    if api.certificate is None and not api.listen.loopback:
        return "listen", (
            f"listen = {str(api.listen)!r}: tokens would cross the network in the clear; give "
            "certificate and key, or listen at 127.0.0.1"
        )
    return "", ""


def _listen(value: object) -> Endpoint | None:
    return Endpoint.parse(values.text(value)) if value != "" else None


def _names(pattern: re.Pattern[str], what: str) -> Callable[[object], tuple[str, ...]]:
    def check(item: object) -> str:
        if not pattern.fullmatch(values.text(item)):
            raise ValueError(f"{item!r} is not {what}")  # which one of the list
        return values.text(item)

    return values.list_of(check)


CHECKS: Final[Mapping[tuple[str, str], Callable[[object], Any]]] = {
    ("api", "listen"): _listen,
    ("api", "certificate"): values.file,
    ("api", "key"): values.file,
    ("api", "hosts"): _names(_HOST, "the name of a host"),
    ("access", "administrators"): _names(_USER, "a user, or a group like @teachers"),
    ("access", "instructors"): _names(_USER, "a user, or a group like @teachers"),
    ("publish", "port_connections"): _COUNT,
    ("publish", "lab_connections"): _COUNT,
    ("publish", "connections"): _COUNT,
    ("limits", "student_requests"): _COUNT,
    ("limits", "student_streams"): _COUNT,
    ("limits", "student_commands"): _COUNT,
}
