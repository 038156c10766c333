"""`Client.activity`: how long labs have been idle."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client import types
    from labd.client.transport import Transport


class ActivityClient:
    """Requests about activity, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[types.Activity]:
        """Return the activity in each lab of which a node runs."""
        found: list[types.Activity] = self._transport.json("GET", "/v1/activity")["labs"]
        return found

    def get(self, lab: str) -> types.Activity:
        """Return the activity in a lab."""
        found: types.Activity = self._transport.json("GET", f"{_path(lab)}/activity")
        return found

    def warn(self, lab: str, text: str, *, reason: str = "", left: float | None = None) -> None:
        """Tell everybody by an event what is about to happen to a lab, `left` seconds from now."""
        body = {"text": text, "reason": reason, "left": left}
        self._transport.raw("POST", f"{_path(lab)}/warnings", body)


def _path(lab: str) -> str:
    return f"/v1/labs/{quote(lab, safe='')}"
