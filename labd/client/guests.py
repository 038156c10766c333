"""`Client.guests`: commands and files in guests, by their agents."""

from __future__ import annotations

import base64
import http.client
from typing import NamedTuple
from urllib.parse import quote, urlencode

from labd.client.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_CHUNK = 256 << 10
_MARGIN = 20.0  # seconds that an answer may come after the command's own end


class Done(NamedTuple):
    """How a command ended.

    Attributes:
        status: Exit status; minus the number of a signal that ended it.
        stdout: At most 1 MiB of it.
        stderr: At most 1 MiB of it.
        truncated: Whether there was more.
    """

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class Guests:
    """Requests about the insides of guests, each on a connection of its own."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def execute(
        self, lab: str, node: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = 600.0
    ) -> Done:
        """Run a command in a guest and wait for its end, at most `timeout` seconds (3600)."""
        own = Transport(self._transport.path, self._transport.token, timeout + _MARGIN)
        body = {
            "argv": list(argv),
            "stdin": base64.b64encode(stdin).decode(),
            "timeout": timeout,
        }
        try:
            found = own.json("POST", f"{_path(lab, node)}/exec", body)
        finally:
            own.close()
        out, err = (base64.b64decode(found[name]) for name in ("stdout", "stderr"))
        return Done(found["status"], out, err, found["truncated"])

    def read(self, lab: str, node: str, path: str) -> Iterator[bytes]:
        """Yield the content of a file in a guest."""
        from labd.client.errors import unreachable

        answer = self._transport.stream(_file(lab, node, path))
        try:
            while part := answer.read(_CHUNK):
                yield part
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._transport.path, error) from error
        finally:
            answer.close()

    def write(self, lab: str, node: str, path: str, content: Iterable[bytes]) -> int:
        """Make or overwrite a file in a guest; return its bytes."""
        # Chunked: a file may grow while it is sent, and a device has no length.
        found: int = self._transport.upload(_file(lab, node, path), content, None)["bytes"]
        return found


def _path(lab: str, node: str) -> str:
    return f"/v1/labs/{quote(lab, safe='')}/nodes/{quote(node, safe='')}"


def _file(lab: str, node: str, path: str) -> str:
    return f"{_path(lab, node)}/file?{urlencode({'path': path})}"
