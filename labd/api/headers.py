"""What a request says of where it comes from: Host and Origin.

A browser that was lured to a page of a stranger sends requests to labd too: by a name of the
stranger's that points to labd's address (DNS rebinding), or across sites, which for WebSockets no
browser forbids. The first is known by Host, the second by Origin. No answer has CORS headers.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import Scope

from labd.api import problems

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def header(scope: Scope, name: bytes) -> str:
    """Return the first header of this name, or an empty text."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def host_name(authority: str) -> str:
    """Return the name or address of `host`, `host:port` or `[v6]:port`."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def check_host(scope: Scope, hosts: Collection[str]) -> None:
    """Let a request over TCP pass that names this daemon; a unix socket has no name.

    Args:
        scope: Of the request.
        hosts: Names that the configuration gives to this daemon.

    Raises:
        Misdirected: It names another one.
    """
    server = scope.get("server")
    if not server or server[1] is None:
        return
    given = host_name(header(scope, b"host"))
    own = host_name(str(server[0])) if ":" not in str(server[0]) else str(server[0])
    known = {own, *hosts, *(_LOOPBACK if own in _LOOPBACK else ())}
    if given not in known:
        raise problems.Misdirected(
            f"this is no labd called {given[:100] or 'nothing'!r}: use its address, or put the "
            "name into `hosts` of [api] in labd.toml"
        )


def check_origin(scope: Scope) -> None:
    """Let a request pass that comes from no page, or from one of labd's own.

    Raises:
        ForeignOrigin: It comes from a page of somebody else.
    """
    origin = header(scope, b"origin")
    if not origin:
        return
    secure = scope.get("scheme") in {"https", "wss"}
    own = f"{'https' if secure else 'http'}://{header(scope, b'host')}"
    if origin.lower() != own.lower():
        raise problems.ForeignOrigin(
            f"a page of {origin[:100]!r} may ask nothing of labd; only its own pages may"
        )
