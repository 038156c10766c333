"""The gate before every route: who calls, from where, how often; and the record of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labd.api import problems
from labd.api.audit import Audit
from labd.api.authenticators import Authenticators, origin_of
from labd.api.callers import Access, Caller
from labd.api.headers import check_host, check_origin, header
from labd.api.limits import STRANGER, Bounds, Meter
from labd.model.errors import LabdError
from labd.model.people import Asked, Role, asking

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


log = logging.getLogger(__name__)

_RECHECK = 1.0  # seconds between two looks at the token of a request that goes on
_POLICY = 1008  # RFC 6455 7.4.1
_READS = frozenset({"GET", "HEAD"})


class Gate:
    """ASGI middleware.

    Args:
        app: The next one.
        access: Knows the tokens of people, and keeps the record.
        authenticators: Who comes in by which socket.
        bounds: By role, how much a caller may ask; without an entry, without bounds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        authenticators: Authenticators,
        bounds: Mapping[Role, Bounds],
    ) -> None:
        self._app = app
        self._access = access
        self._authenticators = authenticators
        self._bounds = bounds
        self._meter = Meter()
        self._audit = Audit(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a connection pass, or answer it with a problem."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._audit)
        try:
            who = await self._admit(scope, answer)
            receive, sent = bounded(scope, receive, answer.send)
            with ExitStack() as stack:
                bounds = self._bounds.get(who.role)
                if bounds is not None:
                    self._meter.require(who.name, bounds)
                    stack.enter_context(self._meter.under_way(who.name, bounds, scope))
                stack.enter_context(asking(answer.asked))
                await self._pass(scope, receive, sent, who, answer)
        except LabdError as error:
            await _refuse(error, scope, receive, answer.send)

    async def _admit(self, scope: Scope, answer: _Answer) -> Caller:
        """Find out who calls.

        Raises:
            LabdError: Nobody may come in like that.
        """
        check_host(scope, self._authenticators.hosts)
        try:
            who = await self._authenticators.identify(scope, self._access)
        except problems.Unauthorised:
            self._meter.require(origin_of(scope), STRANGER)
            raise
        scope["labd.caller"] = who
        answer.asked.actor, answer.asked.role, answer.asked.owner = who.name, who.role, who.owner
        check_origin(scope)
        return who

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, who: Caller, answer: _Answer
    ) -> None:
        """Let the app work, and end it when the caller's token is good no more."""
        if not who.token:
            await self._app(scope, receive, send)
            return
        work = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            while not (await asyncio.wait({work}, timeout=_RECHECK))[0]:
                if await self._access.holder(who.token) is None:
                    break
            else:
                work.result()
                return
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await answer.cut()


class _Answer:
    """The answer to one request, whose begin is what the record has of its outcome."""

    def __init__(self, scope: Scope, send: Send, audit: Audit) -> None:
        self._scope = scope
        self._send = send
        self._audit = audit
        self._begun = False
        reads = scope["type"] == "http" and scope["method"] in _READS
        self.asked = Asked(actor="unknown", role=Role.STUDENT, reads=reads)

    async def send(self, message: Message) -> None:
        """Send on; before the begin of the answer, the request is written down."""
        status = _status(message)
        if status and not self._begun:
            self._begun = True
            words = f"{self._scope.get('method', 'GET')} {self._scope['path']}"
            await self._audit.record(self.asked, words, status)
        await self._send(message)

    async def cut(self) -> None:
        """End it, whatever was said so far."""
        error = problems.Unauthorised("the token is good no more: it was revoked, or has expired")
        if not self._begun:
            await _refuse(error, self._scope, _nothing, self.send)
            return
        last: Message = {"type": "http.response.body", "body": b"", "more_body": False}
        if self._scope["type"] == "websocket":
            last = {"type": "websocket.close", "code": _POLICY, "reason": error.message}
        with contextlib.suppress(Exception):  # the caller may have gone, or the length not fit
            await self._send(last)


def _status(message: Message) -> int:
    """Return the status with which an answer begins, 0 for what is no begin."""
    kind = message["type"]
    if kind in {"http.response.start", "websocket.http.response.start"}:
        return int(message["status"])
    return {"websocket.accept": 101, "websocket.close": 403}.get(kind, 0)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


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
