"""What the network adapter is given to build, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """A tap on a bridge.

    Attributes:
        key: The machine's key.
        nic: `Nic.id` of the machine.
        tap: Interface name in the lab's namespace, at most 15 characters.
        bridge: Interface name of the bridge it is put in.
        mtu: Bytes.
    """

    key: str
    nic: str
    tap: str
    bridge: str
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePlan:
    """One layer-2 segment.

    Attributes:
        network: Name in the lab.
        bridge: Interface name, at most 15 characters.
        address: labd's own address in it with prefix length, from which it probes TCP ports;
            empty for none.
    """

    network: str
    bridge: str
    mtu: int = 1500
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNetworkPlan:
    """Everything of one lab below layer 3.

    Attributes:
        namespace: Name under `/run/netns`, `labd-<root id>-<lab key>`.
    """

    namespace: str
    bridges: tuple[BridgePlan, ...] = ()
    ports: tuple[PortPlan, ...] = ()
