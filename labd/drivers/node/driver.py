"""A kind of node as a value: the port of its life, and the capabilities that it has."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, TypeVar

from labd.drivers.node.capabilities import (
    Accelerators,
    Agents,
    Carriers,
    Consoles,
    Devices,
    GuestFiles,
    Interfaces,
    Screens,
    Snapshots,
)
from labd.drivers.node.port import NodePort
from labd.drivers.storage.port import BlockStorage
from labd.host.supervision import TaskSupervisor
from labd.model.errors import CapabilityMissing
from labd.model.kinds import Capability

# Field of a driver -> the capability that it serves.
_SERVES: Final = {
    "consoles": Capability.CONSOLE,
    "agents": Capability.AGENT,
    "guest_files": Capability.AGENT,
    "interfaces": Capability.AGENT,
    "screens": Capability.SCREEN,
    "devices": Capability.HOT_PLUG,
    "snapshots": Capability.CHECKPOINT,
    "carriers": Capability.CARRIER,
    "accelerators": Capability.ACCELERATOR,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a daemon gives to the maker of a driver.

    Attributes:
        root_id: Of this root; marks its machines on the host.
        run: Folder of sockets.
        storage: Opens the disks of machines.
        merge: The kernel may merge equal memory of machines (KSM).
        tasks: Runs what watches machines.
    """

    root_id: str
    run: Path
    storage: BlockStorage
    merge: bool
    tasks: TaskSupervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDriver:
    """One kind of node. A capability that a kind lacks is None.

    Attributes:
        kind: Name of the kind, as templates write it.
        port: The life of its machines.
        consoles: Serial lines.
        agents: Commands by a guest agent; a kind with agents has `guest_files` and `interfaces`.
        guest_files: Files by the agent.
        interfaces: Addresses by the agent.
        screens: Pictures, keys and viewers.
        devices: NICs and disks that come and go while a machine runs.
        snapshots: Machines that are saved and started from what was saved.
        carriers: Carriers of NICs.
        accelerators: Choice of how CPUs run.
    """

    kind: str
    port: NodePort
    consoles: Consoles | None = None
    agents: Agents | None = None
    guest_files: GuestFiles | None = None
    interfaces: Interfaces | None = None
    screens: Screens | None = None
    devices: Devices | None = None
    snapshots: Snapshots | None = None
    carriers: Carriers | None = None
    accelerators: Accelerators | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this kind offers: each capability of which all parts are there."""
        lacking = {_SERVES[name] for name in _SERVES if getattr(self, name) is None}
        return frozenset(Capability) - lacking

    def require(self, capability: Capability, part: T | None) -> T:
        """Return a part of a capability.

        Raises:
            CapabilityMissing: This kind lacks it.
        """
        if part is None:
            raise CapabilityMissing(
                f"nodes of kind {self.kind} have no {capability}; use a node of another kind",
                kind=self.kind,
                capability=str(capability),
            )
        return part


def parts() -> tuple[str, ...]:
    """Return the names of a driver's fields that are ports."""
    return tuple(item.name for item in fields(NodeDriver) if item.name != "kind")
