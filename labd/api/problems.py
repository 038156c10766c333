"""Errors as RFC 9457 problems: here, and only here, an error gets an HTTP status."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from labd.api.models import OPTIONAL_NAME_PATTERN
from labd.model.errors import (
    ConfigError,
    Conflict,
    DaemonUnreachable,
    Forbidden,
    GuestAgentAbsent,
    ImageRefused,
    InputError,
    LabdError,
    NodeStuck,
    NodeUnresponsive,
    NotFound,
    TemplateError,
    WorldError,
)
from labd.model.names import NAME_PATTERN
from labd.model.units import MIB, format_size

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_NAME_PATTERNS = {NAME_PATTERN, OPTIONAL_NAME_PATTERN}
_NO_JSON = "the body is not valid JSON: send an object as application/json"

# The first class that fits gives the status, so that special ones stand above their parents.
_STATUS: Sequence[tuple[type[LabdError], int]] = (
    (TemplateError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ImageRefused, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ConfigError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InputError, HTTPStatus.BAD_REQUEST),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (Forbidden, HTTPStatus.FORBIDDEN),
    # What a guest has is its owner's choice, and no fault of labd.
    (GuestAgentAbsent, HTTPStatus.CONFLICT),
    (NodeUnresponsive, HTTPStatus.SERVICE_UNAVAILABLE),
    (NodeStuck, HTTPStatus.SERVICE_UNAVAILABLE),
    (DaemonUnreachable, HTTPStatus.SERVICE_UNAVAILABLE),
    (WorldError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


class EventsPruned(NotFound):
    """Events after the asked seq are not kept any more."""

    code = "events_pruned"


class Unauthorised(Forbidden):
    """No token, or one that is not valid."""

    code = "unauthorised"


class TooLarge(InputError):
    """A body over its limit."""

    code = "too_large"


class BadMediaType(InputError):
    """A body of another type than the route takes."""

    code = "bad_media_type"


class TooMany(Forbidden):
    """The caller asks too often, or too much at once."""

    code = "too_many_requests"


class Misdirected(Forbidden):
    """The request names another host."""

    code = "misdirected"


class ForeignOrigin(Forbidden):
    """The request comes from a page of somebody else."""

    code = "foreign_origin"


_OWN_STATUS: Mapping[str, int] = {
    EventsPruned.code: HTTPStatus.GONE,
    Unauthorised.code: HTTPStatus.UNAUTHORIZED,
    TooLarge.code: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BadMediaType.code: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooMany.code: HTTPStatus.TOO_MANY_REQUESTS,
    Misdirected.code: HTTPStatus.MISDIRECTED_REQUEST,
}
_HTTP_CODES: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "no_such_route",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
}


def status_of(error: LabdError) -> int:
    """Return the HTTP status of an error."""
    if error.code in _OWN_STATUS:
        return _OWN_STATUS[error.code]
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def document(
    status: int, code: str, detail: str, details: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return a problem as RFC 9457 has it, with `code` and `details` as extensions."""
    return {
        "type": f"urn:labd:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
        "code": code,
        "details": dict(details or {}),
    }


def response(
    status: int,
    code: str,
    detail: str,
    details: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as an HTTP response."""
    body = json.dumps(document(status, code, detail, details), default=str).encode()
    return Response(body, status, dict(headers or {}), MEDIA_TYPE)


def of_error(error: LabdError) -> Response:
    """Return the response for an error of labd."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorised) else {}
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.details["retry_after"])
    return response(status_of(error), error.code, error.message, error.details, headers)


def _where(loc: Sequence[object]) -> str:
    place, *rest = [str(part) for part in loc] or [""]
    name = ".".join(rest)
    if place == "body":
        return f"field '{name}'" if name and not name.isdigit() else "the body"
    return f"{place} parameter '{name}'"


def _line(problem: Mapping[str, object]) -> str:
    """Return one line for a finding of pydantic."""
    loc, kind = problem.get("loc", ()), problem.get("type")
    place = loc if isinstance(loc, tuple | list) else ()
    value, where = problem.get("input"), _where(place)
    limits = problem.get("ctx")
    limits = limits if isinstance(limits, Mapping) else {}
    if kind == "string_pattern_mismatch" and limits.get("pattern") in _NAME_PATTERNS:
        what = f"{where}:"
        if place and place[0] == "path":
            what = "the name" if place[-1] == "name" else f"{place[-1]} name"
        return (
            f"{what} {str(value)[:64]!r} is not valid: use 1 to 31 of a-z, 0-9 and '-', "
            "beginning with a letter"
        )
    for key, words in (("ge", "or more"), ("le", "or less")):
        limit = limits.get(key)
        if isinstance(limit, int) and limit >= MIB:  # these are bytes
            return f"{where}: must be {format_size(limit)} ({limit}) {words}"
    if kind == "json_invalid":
        return _NO_JSON
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is not known: remove it"
    text = str(problem.get("msg", "is not valid"))
    return f"{where}: {text[:1].lower()}{text[1:]}"


def of_validation(errors: Sequence[Mapping[str, object]]) -> Response:
    """Return the response for a request that does not fit its schema: one line, bounded."""
    lines = [_line(error) for error in errors[:3]]
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    broken = any(error.get("type") == "json_invalid" for error in errors)
    status = HTTPStatus.BAD_REQUEST if broken else HTTPStatus.UNPROCESSABLE_ENTITY
    return response(status, InputError.code, "; ".join(lines) + more)


async def _on_labd(_: Request, error: Exception) -> Response:
    assert isinstance(error, LabdError)  # noqa: S101 -- registered for this class
    found = of_error(error)
    if found.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("a request failed: %s", error)
    return found


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for this class
    return of_validation(error.errors())


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class
    if isinstance(error.__cause__, LabdError):  # FastAPI wraps what reading the body raises
        return of_error(error.__cause__)
    code = _HTTP_CODES.get(error.status_code, "bad_input")
    path = request.url.path[:200]
    if code == "no_such_route":
        detail = f"there is no route {path}; see /openapi.json"
    elif code == "method_not_allowed":
        detail = f"{request.method} is not possible on {path}"
    elif error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI could not read the body
        detail = _NO_JSON
    else:
        detail = str(error.detail)
    return response(error.status_code, code, detail, headers=error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    """Answer for a bug: an id that stands in the log too, and nothing of its inside."""
    fault = secrets.token_hex(6)
    log.error("fault %s in %s %s", fault, request.method, request.url.path, exc_info=error)
    return response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        f"labd has a fault; its log has the details under {fault}",
        {"id": fault},
    )


async def _on_socket_labd(socket: WebSocket, error: Exception) -> None:
    assert isinstance(error, LabdError)  # noqa: S101 -- registered for this class
    await socket.send_denial_response(of_error(error))


async def _on_socket_validation(socket: WebSocket, error: Exception) -> None:
    assert isinstance(error, WebSocketRequestValidationError)  # noqa: S101 -- registered so
    await socket.send_denial_response(of_validation(list(error.errors())))


def install(app: FastAPI) -> None:
    """Have every error of the app answered by a problem."""

    async def on_labd(connection: Any, error: Exception) -> Response | None:  # noqa: ANN401
        if isinstance(connection, WebSocket):
            await _on_socket_labd(connection, error)
            return None
        return await _on_labd(connection, error)

    app.add_exception_handler(LabdError, on_labd)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(WebSocketRequestValidationError, _on_socket_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
