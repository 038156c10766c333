"""How large a body may be, and of which type."""

from __future__ import annotations

import re

from starlette.types import Message, Receive, Scope, Send

from labd.api import problems
from labd.api.headers import header

JSON_LIMIT = 1 << 20  # bytes
_JSON = "application/json"
_BINARY = "application/octet-stream"
_UPLOADS = re.compile(r"/v1/(?:images|checkpoints)/|/v1/labs/[^/]+/nodes/[^/]+/file\Z")


def bounded(scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Return both ends of a request such that its body is of the right type and size.

    Raises:
        BadMediaType: The body is of a type that no route takes there.
        TooLarge: It says so itself.
    """
    if scope["type"] != "http":
        return receive, send
    receive, upload = _limited(scope, receive)
    return _hanging_up(receive, send) if upload else (receive, send)


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
    """
    if scope["method"] not in {"POST", "PUT", "PATCH"}:
        return receive, False
    upload = _is_upload(scope)
    wanted = _BINARY if upload else _JSON
    given = header(scope, b"content-type").partition(";")[0].strip().lower()
    if given != wanted:
        raise problems.BadMediaType(
            f"content type {given or 'none'!r} is not taken here: send {wanted}"
        )
    if upload:
        return receive, True
    length = header(scope, b"content-length")
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
