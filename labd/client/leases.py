"""`Client.leases`: until when labs may run."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from labd.client import types
    from labd.client.transport import Transport


class Leases:
    """Requests about leases, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[types.Lease]:
        """Return all leases by lab."""
        found: list[types.Lease] = self._transport.json("GET", "/v1/leases")["leases"]
        return found

    def get(self, lab: str) -> types.Lease:
        """Return the lease of a lab."""
        found: types.Lease = self._transport.json("GET", _path(lab))
        return found

    def set(self, lab: str, lease: Mapping[str, object]) -> types.Lease:
        """Give a lab a lease: `seconds` or `until`, and `keep` and `warn` in seconds."""
        found: types.Lease = self._transport.json("PUT", _path(lab), dict(lease))
        return found

    def extend(self, lab: str, seconds: float) -> types.Lease:
        """Let the lease of a lab last longer."""
        found: types.Lease = self._transport.json(
            "POST", f"{_path(lab)}/extend", {"seconds": seconds}
        )
        return found

    def cancel(self, lab: str) -> None:
        """Let a lab run for ever."""
        self._transport.raw("DELETE", _path(lab))


def _path(lab: str) -> str:
    return f"/v1/labs/{quote(lab, safe='')}/lease"
