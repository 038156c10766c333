"""Requests to an ASGI app without a server: HTTP and the handshake of WebSockets."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from labd.api.authenticators import PEER, Peer

ADMIN = ("/run/api.sock", None)
PEOPLE = ("/run/people.sock", None)
PLUGINS = ("/run/plugin.sock", None)
TCP = ("127.0.0.1", 8443)
_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """How a caller comes in; without `uid`, each time as another user or from another host."""

    server: tuple[str, int | None] = TCP
    token: str = ""
    uid: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; a WebSocket that was taken has the status 101."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem, or an empty text."""
        found = self.json if "problem" in self.headers.get("content-type", "") else {}
        return str(found.get("code", ""))


def scope_of(
    door: Entrance, method: str, path: str, query: str = "", kind: str = "application/json"
) -> dict[str, Any]:
    """Return the scope of a request; `WS` is the handshake of a WebSocket."""
    headers = {"host": "127.0.0.1:8443", "content-type": kind, **door.headers}
    if door.token:
        headers["authorization"] = f"Bearer {door.token}"
    number = next(_NUMBERS)
    uid = door.uid if door.uid is not None else 3_000_000_000 + number
    peer = Peer(uid=uid, groups=frozenset({uid}))
    socket, tcp = method == "WS", door.server == TCP
    return {
        "type": "websocket" if socket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws" if socket else "http",
        "server": door.server,
        "client": (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 40_000)
        if tcp
        else None,
        "root_path": "",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "state": {} if tcp else {PEER: peer},
        "extensions": {"websocket.http.response": {}},
        **({"subprotocols": []} if socket else {"method": method}),
    }


async def ask(
    app: Any, door: Entrance, method: str, path: str, body: object = None, query: str = ""
) -> Answer:
    """Make one request; `WS` opens a WebSocket and leaves at once."""
    upload = isinstance(body, bytes)
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kind = "application/octet-stream" if upload else "application/json"
    scope = scope_of(door, method, path, query, kind)
    come: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    if method == "WS":
        come.put_nowait({"type": "websocket.connect"})
        come.put_nowait({"type": "websocket.disconnect", "code": 1001})
    else:
        come.put_nowait({"type": "http.request", "body": data, "more_body": False})
    gone: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        gone.append(message)

    await app(scope, come.get, send)
    return _answer(gone)


def _answer(gone: list[dict[str, Any]]) -> Answer:
    first = gone[0]
    status = {"websocket.accept": 101, "websocket.close": 403}.get(first["type"])
    return Answer(
        status=status if status is not None else first["status"],
        headers={key.decode(): value.decode() for key, value in first.get("headers", ())},
        body=b"".join(message.get("body", b"") for message in gone[1:]),
    )
