"""What the API may ask to change of a lab without a template: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from labd.model.names import NodeRef
from labd.model.records import OperationRecord
from labd.model.specs import DiskBus, Display, Machine


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


class EditsApi(Protocol):
    """Edits of a lab's spec; each is an operation, and the next `up` with a template undoes it.

    What runs keeps running; a running machine that cannot take the change is a `Conflict`.
    """

    async def disks(self, ref: NodeRef) -> Sequence[DiskView]:
        """Return the drives of a node."""

    async def attach_disk(
        self, ref: NodeRef, name: str, size: int, bus: DiskBus | None
    ) -> OperationRecord:
        """Give a node one more disk of `size` bytes; on the bus of its disks when none is told."""

    async def detach_disk(self, ref: NodeRef, name: str) -> OperationRecord:
        """Take a disk from a node; its data is kept until the node is removed."""

    async def set_cdrom(self, ref: NodeRef, image: str) -> OperationRecord:
        """Put an ISO image into the CD-ROM drive of a node; an empty name ejects."""

    async def add_node(self, lab: str, new: NewNode) -> OperationRecord:
        """Add a node to a lab, and start it if the lab runs."""

    async def remove_node(self, ref: NodeRef) -> OperationRecord:
        """Remove a node with its disks."""
