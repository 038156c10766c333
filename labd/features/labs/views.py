"""What the service of labs returns."""

from __future__ import annotations

from dataclasses import dataclass

from labd.features.leases import LeaseView
from labd.model.records import LabRecord, NodeRecord, OperationRecord, PublicationRecord
from labd.model.states import NetworkState


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of a plan, in the order in which it would be done.

    Attributes:
        action: `create`, `remove`, `replace` (stop, rebuild, start), `update` (no restart needed)
            or `start`.
        kind: `lab`, `network` or `node`.
        name: Of the network or node.
        why: The fields that differ, such as `memory: 128 MiB -> 256 MiB`; empty for the obvious.
    """

    action: str
    kind: str
    name: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    """A network of a lab and how it is."""

    name: str
    bridge: str
    state: NetworkState
    subnet: str
    uplink: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabView:
    """A lab with all that `lab status` shows."""

    lab: LabRecord
    nodes: tuple[NodeRecord, ...]
    networks: tuple[NetworkView, ...]
    operation: OperationRecord | None
    published: tuple[PublicationRecord, ...] = ()
    lease: LeaseView | None = None
