"""`Client.checkpoints`: frozen labs, and labs that start from them."""

from __future__ import annotations

import http.client
from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from labd.client import types
    from labd.client.transport import Transport


_CHUNK = 1 << 20


class Checkpoints:
    """Requests about checkpoints, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[dict[str, Any]]:
        """Return all checkpoints."""
        found: list[dict[str, Any]] = self._transport.json("GET", "/v1/checkpoints")["checkpoints"]
        return found

    def get(self, name: str) -> dict[str, Any]:
        """Return one checkpoint."""
        found: dict[str, Any] = self._transport.json("GET", _path(name))
        return found

    def remove(self, name: str) -> None:
        """Remove a checkpoint that no lab stands on."""
        self._transport.raw("DELETE", _path(name))

    def export(self, name: str, file: BinaryIO) -> int:
        """Write a checkpoint to a file, for another host; return its bytes."""
        return sum(file.write(part) for part in self._archive(name))

    def _archive(self, name: str) -> Iterator[bytes]:
        from labd.client.errors import unreachable

        answer = self._transport.stream(f"{_path(name)}/archive")
        try:
            while part := answer.read(_CHUNK):
                yield part
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._transport.path, error) from error
        finally:
            answer.close()

    def receive(self, name: str, file: BinaryIO, length: int | None = None) -> dict[str, Any]:
        """Send an exported checkpoint; `length` in bytes, when known."""
        chunks = iter(lambda: file.read(_CHUNK), b"")
        found: dict[str, Any] = self._transport.upload(_path(name), chunks, length)
        return found

    def save(
        self, lab: str, name: str, *, mode: str = "live", message: str = ""
    ) -> types.Operation:
        """Begin to freeze a lab; `mode` is `live` or `stop`."""
        body = {"name": name, "mode": mode, "message": message}
        found: types.Operation = self._transport.json(
            "POST", f"/v1/labs/{quote(lab, safe='')}/checkpoints", body
        )
        return found

    def fork(
        self,
        name: str,
        lab: str,
        *,
        count: int = 0,
        settings: Mapping[str, str] | None = None,
        template: Mapping[str, object] | None = None,
        lease: Mapping[str, object] | None = None,
    ) -> list[types.Operation]:
        """Begin to start labs from a checkpoint: LAB, or LAB-1 to LAB-COUNT.

        `template` has `text`, `file` and `settings` of a template with the same machines; `lease`
        is as in `Client.up`.
        """
        body: dict[str, object] = {
            "name": lab,
            "count": count,
            "settings": dict(settings or {}),
            "template": None if template is None else dict(template),
            "lease": None if lease is None else dict(lease),
        }
        found: list[types.Operation] = self._transport.json("POST", f"{_path(name)}/forks", body)[
            "operations"
        ]
        return found

    def restore(self, lab: str, name: str = "", nodes: Sequence[str] = ()) -> types.Operation:
        """Begin to take a lab, or nodes, back to a checkpoint; by default to where it began."""
        body = {"checkpoint": name, "nodes": list(nodes)}
        found: types.Operation = self._transport.json(
            "POST", f"/v1/labs/{quote(lab, safe='')}/restore", body
        )
        return found

    def chapter(self, lab: str, *, again: bool = False) -> types.Operation:
        """Begin the next chapter of a lab, or the present one again."""
        found: types.Operation = self._transport.json(
            "POST", f"/v1/labs/{quote(lab, safe='')}/chapter", {"again": again}
        )
        return found


def _path(name: str) -> str:
    return f"/v1/checkpoints/{quote(name, safe='')}"
