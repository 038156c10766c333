"""The registry of kinds of nodes: a kind is a folder below `drivers/node` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from labd.core.nodes import Nodes
from labd.drivers.node.driver import NodeDriver, NodeSettings
from labd.drivers.node.qemu import QemuHypervisor, qemu_driver
from labd.model.kinds import DEFAULT_KIND

# Kind, as templates write it -> what makes its driver.
NODE_KINDS: Final[Mapping[str, Callable[[NodeSettings], NodeDriver]]] = {
    DEFAULT_KIND: qemu_driver,
}


def build_nodes(settings: NodeSettings) -> Nodes:
    """Return the drivers of all kinds of nodes."""
    return Nodes({kind: make(settings) for kind, make in NODE_KINDS.items()})


def hypervisor_of(nodes: Nodes) -> QemuHypervisor:
    """Return the QEMU of this daemon, which the doctor asks about KVM."""
    port = nodes.of(DEFAULT_KIND).port
    assert isinstance(port, QemuHypervisor)  # noqa: S101 - the registry above
    return port
