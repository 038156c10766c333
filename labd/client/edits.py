"""`Client.edits`: disks, CDs and nodes of labs, changed without a template."""

from __future__ import annotations

from urllib.parse import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from labd.client import types
    from labd.client.transport import Transport


class Edits:
    """Requests that edit labs, on the connection of a `Client`. Sizes are bytes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def disks(self, lab: str, node: str) -> list[dict[str, Any]]:
        """Return the drives of a node: name, kind, bus, size, image, attached."""
        found: list[dict[str, Any]] = self._transport.json("GET", _path(lab, node, "disks"))[
            "disks"
        ]
        return found

    def attach_disk(
        self, lab: str, node: str, name: str, size: int, bus: str | None = None
    ) -> types.Operation:
        """Begin to give a node one more disk."""
        body = {"name": name, "size": size, "bus": bus}
        found: types.Operation = self._transport.json("POST", _path(lab, node, "disks"), body)
        return found

    def detach_disk(self, lab: str, node: str, name: str) -> types.Operation:
        """Begin to take a disk from a node; its data is kept until the node is removed."""
        found: types.Operation = self._transport.json("DELETE", _path(lab, node, "disks", name))
        return found

    def set_cdrom(self, lab: str, node: str, image: str = "") -> types.Operation:
        """Begin to put an ISO image into the drive of a node; an empty name ejects."""
        body = {"image": image}
        found: types.Operation = self._transport.json("PUT", _path(lab, node, "cdrom"), body)
        return found

    def add_node(
        self,
        lab: str,
        name: str,
        *,
        networks: Mapping[str, str] | None = None,
        **fields: object,
    ) -> types.Operation:
        """Begin to add a node.

        Args:
            lab: To which lab.
            name: Of the node.
            networks: Network -> address with prefix length, or empty.
            fields: image, profile, vcpus, memory, machine, display; None: left out.
        """
        given = {key: value for key, value in fields.items() if value is not None}
        body = {"name": name, "networks": dict(networks or {}), **given}
        found: types.Operation = self._transport.json("POST", _path(lab), body)
        return found

    def remove_node(self, lab: str, node: str) -> types.Operation:
        """Begin to remove a node with its disks."""
        found: types.Operation = self._transport.json("DELETE", _path(lab, node))
        return found


def _path(lab: str, *parts: str) -> str:
    words = [quote(part, safe="") for part in parts]
    return "/".join([f"/v1/labs/{quote(lab, safe='')}/nodes", *words])
