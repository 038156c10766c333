"""`Client.screens`: pictures of nodes' screens, and their keyboards."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from labd.client.transport import Transport


class Screens:
    """Requests about screens, on the connection of a `Client`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def screenshot(self, lab: str, node: str) -> bytes:
        """Return what the screen of a node shows, as PNG."""
        return self._transport.raw("GET", f"{_path(lab, node)}/screen")

    def type(self, lab: str, node: str, text: str = "", keys: Sequence[str] = ()) -> int:
        """Type a text, then chords such as `ctrl-alt-f2`; return how many keys were pressed."""
        body = {"text": text, "keys": list(keys)}
        found: int = self._transport.json("POST", f"{_path(lab, node)}/keys", body)["keys"]
        return found


def _path(lab: str, node: str) -> str:
    return f"/v1/labs/{quote(lab, safe='')}/nodes/{quote(node, safe='')}"
