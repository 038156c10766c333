"""QEMU as a kind of node: everything that a kind may offer."""

from __future__ import annotations

from labd.drivers.node.driver import NodeDriver, NodeSettings
from labd.drivers.node.qemu.carrier import QemuCarriers
from labd.drivers.node.qemu.guest_files import QemuGuestFiles
from labd.drivers.node.qemu.interfaces import QemuInterfaces
from labd.drivers.node.qemu.plug import QemuDevices
from labd.drivers.node.qemu.qemu import QemuHypervisor
from labd.drivers.node.qemu.screen import QemuScreens
from labd.drivers.node.qemu.snapshots import QemuSnapshots
from labd.drivers.storage.port import BlockStorage
from labd.model.kinds import DEFAULT_KIND


def qemu_driver(settings: NodeSettings) -> NodeDriver:
    """Return the driver of virtual machines."""
    hypervisor = QemuHypervisor(
        settings.root_id,
        settings.run,
        storage=settings.storage,
        merge=settings.merge,
        tasks=settings.tasks,
    )
    return driver_of(hypervisor, settings.storage)


def driver_of(hypervisor: QemuHypervisor, storage: BlockStorage) -> NodeDriver:
    """Return everything that QEMU offers, on one hypervisor."""
    return NodeDriver(
        kind=DEFAULT_KIND,
        port=hypervisor,
        consoles=hypervisor,
        agents=hypervisor,
        accelerators=hypervisor,
        guest_files=QemuGuestFiles(hypervisor.machine),
        interfaces=QemuInterfaces(hypervisor.machine),
        screens=QemuScreens(hypervisor.machine),
        devices=QemuDevices(hypervisor.machine, storage),
        snapshots=QemuSnapshots(hypervisor),
        carriers=QemuCarriers(hypervisor.machine),
    )
