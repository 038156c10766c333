"""HTTP/1.1 to labd with the standard library, and errors rebuilt from problems."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

from labd.client.places import connection as connection_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

TIMEOUT = 70.0  # seconds; above the longest wait that the API offers (60)
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


def _unreachable(path: str, why: object) -> Exception:
    """Return the error; errors are imported when there is one, for `lab` has to start quickly."""
    from labd.client.errors import unreachable

    return unreachable(path, why)


def _from_problem(status: int, data: bytes) -> Exception:
    from labd.client.errors import from_problem

    return from_problem(status, data)


class Answer:
    """A response whose body is read as it comes; closing it closes its connection."""

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._connection = connection
        self._response = response

    def readline(self) -> bytes:
        """Return the next line; empty at the end."""
        return self._response.readline()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; empty at the end."""
        return self._response.read(size)

    def close(self) -> None:
        """End it; a reader in another thread wakes up."""
        channel = self._connection.sock
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Transport:
    """One keep-alive connection; for one thread at a time.

    Args:
        path: Of the unix socket, or a URL.
        token: Bearer token, or empty.
        timeout: Seconds without a byte after which labd counts as unreachable.
    """

    def __init__(self, path: str, token: str = "", timeout: float = TIMEOUT) -> None:
        self.path = path
        self.token = token
        self.timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def json(self, method: str, target: str, body: object = None) -> Any:  # noqa: ANN401 -- JSON
        """Make a request and return the decoded answer (None when it has no body)."""
        data = self.raw(method, target, body)
        try:
            return json.loads(data) if data else None
        except ValueError as error:
            raise _unreachable(self.path, f"it answered with no JSON ({error})") from error

    def raw(self, method: str, target: str, body: object = None) -> bytes:
        """Make a request and return the body of the answer.

        A GET goes over the kept connection, and once more over a fresh one when that went stale
        meanwhile; what changes something goes over a fresh one and is never sent twice.

        Raises:
            LabdError: What the daemon said.
            DaemonUnreachable: There was no answer.
        """
        headers = self.headers()
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if method != "GET":
            self.close()
        reused = self._connection is not None
        try:
            try:
                response, data = self._once(method, target, content, headers)
            except _STALE:
                self.close()
                if not reused:
                    raise
                response, data = self._once(method, target, content, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _unreachable(self.path, error) from error
        if response.status >= 400:
            raise _from_problem(response.status, data)
        return data

    def _once(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if self._connection is None:
            self._connection = connection_to(self.path, self.timeout)
        connection = self._connection
        connection.request(method, target, content, headers)
        response = connection.getresponse()
        data = response.read()
        if response.will_close:
            self.close()
        return response, data

    def stream(self, target: str) -> Answer:
        """Begin a GET on a connection of its own, whose body is read line by line."""
        connection = connection_to(self.path, self.timeout)
        try:
            connection.request("GET", target, headers=self.headers())
            response = connection.getresponse()
            refused = response.read() if response.status >= 400 else None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _unreachable(self.path, error) from error
        if refused is not None:
            connection.close()
            raise _from_problem(response.status, refused)
        return Answer(connection, response)

    def upload(self, target: str, chunks: Iterable[bytes], length: int | None) -> Any:  # noqa: ANN401
        """PUT a body that is read as it is sent, on a connection of its own.

        `length` in bytes, when it is known. A daemon that refuses early closes its end: the answer
        is read then, and not the broken pipe reported.
        """
        connection = connection_to(self.path, 600.0)  # hashing a large image takes its time
        headers = self.headers() | {"Content-Type": "application/octet-stream"}
        if length is not None:
            headers["Content-Length"] = str(length)
        try:
            try:
                connection.request("PUT", target, chunks, headers, encode_chunked=length is None)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.path, error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _from_problem(response.status, data)
        return json.loads(data)
