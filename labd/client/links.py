"""`Client.links`: carriers and impairments of the links of labs."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from labd.client.transport import Transport


class Links:
    """Requests about links, on the connection of a `Client`.

    Each returns links, one a NIC: network, link, node, nic, to, down, changed, and each impairment
    (`labd.model.impairment`): bits a second, seconds and per cent.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def show(self, lab: str) -> list[dict[str, Any]]:
        """Return all links of a lab."""
        return self._ask("GET", lab)

    def set(
        self,
        lab: str,
        target: str,
        *,
        sender: str = "",
        down: bool | None = None,
        **fields: float,
    ) -> list[dict[str, Any]]:
        """Change the links of a link, a network, or one NIC (`NODE/NIC`).

        Args:
            lab: Its name.
            target: Which.
            sender: `NODE` or `NODE/NIC` whose frames are meant; empty for all.
            down: Take the carrier away, or give it back.
            fields: Impairments by name; 0 for none.
        """
        body: dict[str, object] = {"target": target, "sender": sender, **fields}
        if down is not None:
            body["down"] = down
        return self._ask("PATCH", lab, body=body)

    def reset(self, lab: str, target: str = "") -> list[dict[str, Any]]:
        """Have links as the template says; all without a target."""
        return self._ask("DELETE", lab, f"?target={quote(target, safe='')}")

    def _ask(
        self, method: str, lab: str, query: str = "", body: dict[str, object] | None = None
    ) -> list[dict[str, Any]]:
        path = f"/v1/labs/{quote(lab, safe='')}/links{query}"
        found: list[dict[str, Any]] = self._transport.json(method, path, body)["links"]
        return found
