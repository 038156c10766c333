"""The gate before every route: who calls, how large a body may be, and of which type."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labd.api import problems
from labd.api.access import ADMINISTRATOR, Caller, TokenCheck
from labd.model.errors import LabdError

JSON_LIMIT = 1 << 20  # bytes
_JSON = "application/json"
_BINARY = "application/octet-stream"
_UPLOADS = re.compile(r"/v1/(?:images|checkpoints)/|/v1/labs/[^/]+/nodes/[^/]+/file\Z")


class Gate:
    """ASGI middleware.

    Args:
        app: The next one.
        admin_socket: The unix socket whose every peer is an administrator.
        tokens: Knows the tokens for every other way in.
    """

    def __init__(self, app: ASGIApp, *, admin_socket: Path, tokens: TokenCheck) -> None:
        self._app = app
        self._admin_socket = str(admin_socket)
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a connection pass, or answer it with a problem."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            scope["labd.caller"] = self._identify(scope)
            if scope["type"] == "http":
                receive, upload = _limited(scope, receive)
                if upload:
                    receive, send = _hanging_up(receive, send)
            await self._app(scope, receive, send)
        except LabdError as error:
            await _refuse(error, scope, receive, send)

    def _identify(self, scope: Scope) -> Caller:
        server = scope.get("server")
        if server and server[0] == self._admin_socket:
            return ADMINISTRATOR
        kind, _, token = _header(scope, b"authorization").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise problems.Unauthorised(
                "this socket needs a token: send `Authorization: Bearer TOKEN`"
            )
        found = self._tokens(token.strip())
        if found is None:
            raise problems.Unauthorised(
                "the token is not valid: it was revoked, or never given out"
            )
        return Caller(name=found.name, scopes=frozenset(found.scopes))


async def _refuse(error: LabdError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = problems.of_error(error)
    if scope["type"] == "http":
        await answer(scope, receive, send)
        return
    # RFC 6455 4.2.2: before the handshake a server answers with plain HTTP.
    headers = [(key, value) for key, value in answer.raw_headers]
    await send(
        {
            "type": "websocket.http.response.start",
            "status": answer.status_code,
            "headers": headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": bytes(answer.body)})


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "PUT" and bool(_UPLOADS.match(str(scope["path"])))


def _hanging_up(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Return both ends of an upload such that an answer before its end closes the connection.

    Otherwise the server would read the rest, which need not end, only to forget it.
    """
    whole = False

    async def taken() -> Message:
        nonlocal whole
        message = await receive()
        whole = whole or not message.get("more_body", False)
        return message

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and not whole:
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return taken, sent


def _limited(scope: Scope, receive: Receive) -> tuple[Receive, bool]:
    """Return a `receive` that ends a body over its limit, and whether the body is an upload.

    Uploads are bounded by who takes them.

    Raises:
        BadMediaType: The body is of a type that no route takes there.
        TooLarge: It says so itself.
    """
    if scope["method"] not in {"POST", "PUT", "PATCH"}:
        return receive, False
    upload = _is_upload(scope)
    wanted = _BINARY if upload else _JSON
    given = _header(scope, b"content-type").partition(";")[0].strip().lower()
    if given != wanted:
        raise problems.BadMediaType(
            f"content type {given or 'none'!r} is not taken here: send {wanted}"
        )
    if upload:
        return receive, True
    length = _header(scope, b"content-length")
    if length.isdecimal() and int(length) > JSON_LIMIT:
        raise _too_large()
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > JSON_LIMIT:
            raise _too_large()
        return message

    return counted, False


def _too_large() -> problems.TooLarge:
    return problems.TooLarge(f"the body is larger than {JSON_LIMIT >> 20} MiB: send less")
