"""`Client.classes`: labs for everybody on a roster."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from labd.client.transport import Transport


class Classes:
    """Requests about classes, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[dict[str, Any]]:
        """Return all classes."""
        found: list[dict[str, Any]] = self._transport.json("GET", "/v1/classes")["classes"]
        return found

    def get(self, name: str) -> dict[str, Any]:
        """Return one class."""
        found: dict[str, Any] = self._transport.json("GET", _path(name))
        return found

    def start(
        self,
        name: str,
        checkpoint: str,
        students: Sequence[Mapping[str, object]],
        *,
        template: Mapping[str, object] | None = None,
        settings: Mapping[str, str] | None = None,
        lease: Mapping[str, object] | None = None,
        queue: bool = False,
    ) -> dict[str, Any]:
        """Begin to fork a lab for each student: `name` and `settings`.

        With `template` (`text`, `file` and `settings`) and no checkpoint, a first copy is booted.
        """
        body = {
            "name": name,
            "checkpoint": checkpoint,
            "template": None if template is None else dict(template),
            "students": [dict(item) for item in students],
            "settings": dict(settings or {}),
            "lease": None if lease is None else dict(lease),
            "queue": queue,
        }
        found: dict[str, Any] = self._transport.json("POST", "/v1/classes", body)
        return found

    def add(self, name: str, students: Sequence[Mapping[str, object]]) -> dict[str, Any]:
        """Let more students take part."""
        body = {"students": [dict(item) for item in students]}
        found: dict[str, Any] = self._transport.json("POST", f"{_path(name)}/students", body)
        return found

    def extend(self, name: str, seconds: float) -> dict[str, Any]:
        """Let the leases of all labs of a class last longer."""
        found: dict[str, Any] = self._transport.json(
            "POST", f"{_path(name)}/extend", {"seconds": seconds}
        )
        return found

    def stop(self, name: str) -> dict[str, Any]:
        """Begin to stop all labs of a class."""
        found: dict[str, Any] = self._transport.json("POST", f"{_path(name)}/stop", {})
        return found

    def destroy(self, name: str) -> dict[str, Any]:
        """Begin to remove a class with all its labs."""
        found: dict[str, Any] = self._transport.json("DELETE", _path(name))
        return found


def _path(name: str) -> str:
    return f"/v1/classes/{quote(name, safe='')}"
