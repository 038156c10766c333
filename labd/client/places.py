"""Where labd is, and connections to it: a unix socket's path, or a URL with a token."""

from __future__ import annotations

import http.client
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from websockets.sync.client import ClientConnection

_SCHEMES = ("http://", "https://")
_PEOPLE = "people.sock"


def default_place() -> str:
    """Return where labd is: $LABD_URL, $LABD_SOCKET, below $LABD_ROOT, or the system's own."""
    given = os.environ.get("LABD_URL") or os.environ.get("LABD_SOCKET")
    return given or socket_of(os.environ.get("LABD_ROOT") or "/")


def socket_of(root: str) -> str:
    """Return the path of the socket for this caller of a daemon with this root.

    It is the administrators', unless there is a token, or the caller may not use that one.
    """
    folder = "/run/labd" if root == "/" else os.path.join(root, "run")
    path, people = os.path.join(folder, "api.sock"), os.path.join(folder, _PEOPLE)
    if os.path.exists(people) and (default_token() or not os.access(path, os.W_OK)):
        return people
    return path


def default_token() -> str:
    """Return $LABD_TOKEN."""
    return os.environ.get("LABD_TOKEN", "")


def is_url(place: str) -> bool:
    """True if a place is a URL."""
    return place.startswith(_SCHEMES)


def by_token_only(place: str, token: str) -> bool:
    """True if the caller is known by a token, and so gets no descriptors of `connect.sock`."""
    return bool(token) or is_url(place) or os.path.basename(place) == _PEOPLE


def connection(place: str, timeout: float) -> http.client.HTTPConnection:
    """Return a connection that is made when it is used.

    Raises:
        InputError: The URL is none.
    """
    if not is_url(place):
        return _UnixConnection(place, timeout)
    host, port = _endpoint(place)
    if place.startswith("https://"):
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=_tls())
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _endpoint(place: str) -> tuple[str, int]:
    from urllib.parse import urlsplit

    from labd.model.errors import InputError

    try:
        url = urlsplit(place)
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if not host or url.path.strip("/") or url.query or url.username:
        raise InputError(f"{place[:100]!r} is no URL of a labd; write it like https://host:8443")
    return host, port or (443 if place.startswith("https://") else 80)


def _tls() -> ssl.SSLContext:
    """Return the trust in certificates: the system's, and $LABD_CA."""
    import ssl

    from labd.model.errors import InputError

    path = os.environ.get("LABD_CA") or None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"--ca {path} is no PEM file of certificates that can be read") from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket (`http.client` calls this)."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(self.timeout)
        try:
            connect_unix(channel, self._path)
        except BaseException:
            channel.close()
            raise
        self.sock = channel


def connect_unix(channel: socket.socket, path: str) -> None:
    """Connect, also when the path is longer than sockaddr_un holds (unix(7): 107 bytes)."""
    if len(os.fsencode(path)) <= 107:
        channel.connect(path)
        return
    folder, name = os.path.split(path)
    fd = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        channel.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def websocket(place: str, token: str, target: str, timeout: float = 20.0) -> ClientConnection:
    """Open a WebSocket.

    Args:
        place: A path or a URL.
        token: Bearer token, or empty.
        target: Path and query of the route.
        timeout: Seconds for the handshake.

    Raises:
        LabdError: What the daemon said.
        DaemonUnreachable: There was no answer.
    """
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import connect, unix_connect

    from labd.client.errors import from_problem, unreachable

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        if is_url(place):
            secure = place.startswith("https://")
            host, port = _endpoint(place)
            name = f"[{host}]" if ":" in host else host
            return connect(
                f"{'wss' if secure else 'ws'}://{name}:{port}{target}",
                ssl=_tls() if secure else None,
                additional_headers=headers,
                compression=None,
                proxy=None,
                open_timeout=timeout,
                close_timeout=2,
                max_size=None,
            )
        return unix_connect(
            place,
            f"ws://localhost{target}",
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=timeout,
            close_timeout=2,
            max_size=None,
        )
    except InvalidStatus as error:
        raise from_problem(error.response.status_code, bytes(error.response.body or b"")) from error
    except (OSError, WebSocketException) as error:
        raise unreachable(place, error) from error
