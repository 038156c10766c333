"""`Client.pools`: forks that stand ready before somebody asks for them."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from labd.client.transport import Transport


class Pools:
    """Requests about warm pools, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[dict[str, Any]]:
        """Return all pools."""
        found: list[dict[str, Any]] = self._transport.json("GET", "/v1/pools")["pools"]
        return found

    def get(self, checkpoint: str) -> dict[str, Any]:
        """Return the pool of a checkpoint."""
        found: dict[str, Any] = self._transport.json("GET", _path(checkpoint))
        return found

    def warm(self, checkpoint: str, size: int) -> dict[str, Any]:
        """Begin to keep so many forks of a checkpoint ready."""
        found: dict[str, Any] = self._transport.json("PUT", _path(checkpoint), {"size": size})
        return found

    def cool(self, checkpoint: str) -> None:
        """End the pool of a checkpoint."""
        self._transport.raw("DELETE", _path(checkpoint))


def _path(checkpoint: str) -> str:
    return f"/v1/pools/{quote(checkpoint, safe='')}"
