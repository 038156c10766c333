"""What edits of a lab take and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.specs import Display, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskView:
    """A drive of a node.

    Attributes:
        name: `root`, `cdrom`, or the disk's own.
        kind: `root`, `cdrom` or `disk`.
        size: Bytes; None: as its image.
        image: What is below it, or in it; empty for none.
        attached: The running machine has it.
    """

    name: str
    kind: str
    bus: str
    size: int | None
    image: str
    attached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNode:
    """A node that is added to a lab.

    Attributes:
        networks: Name of a network -> address with prefix length, empty for none; the NICs are
            called eth0, eth1… in this order.
        memory: Bytes; None: the profile's, or 256 MiB.
        disk: Bytes; None: as the image.
    """

    name: str
    image: str = ""
    profile: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    vcpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    machine: Machine = Machine.Q35
    display: Display = Display.NONE
