"""The gate before every route: who calls, how large a body may be, and of which type."""

from __future__ import annotations

from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labd.api import problems
from labd.api.access import ADMINISTRATOR, Caller, TokenCheck
from labd.model.errors import LabdError

JSON_LIMIT = 1 << 20  # bytes
_JSON = "application/json"
_BINARY = "application/octet-stream"


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
                receive = _limited(scope, receive)
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
    path = str(scope["path"])
    return scope["method"] == "PUT" and path.startswith(("/v1/images/", "/v1/checkpoints/"))


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that ends a body over its limit; uploads are bounded by the store.

    Raises:
        BadMediaType: The body is of a type that no route takes there.
        TooLarge: It says so itself.
    """
    if scope["method"] not in {"POST", "PUT", "PATCH"}:
        return receive
    upload = _is_upload(scope)
    wanted = _BINARY if upload else _JSON
    given = _header(scope, b"content-type").partition(";")[0].strip().lower()
    if given != wanted:
        raise problems.BadMediaType(
            f"content type {given or 'none'!r} is not taken here: send {wanted}"
        )
    if upload:
        return receive
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

    return counted


def _too_large() -> problems.TooLarge:
    return problems.TooLarge(f"the body is larger than {JSON_LIMIT >> 20} MiB: send less")
