"""QEMU: its command line, its process, its monitor, its console and its guest agent."""

from labd.drivers.node.qemu.argv import MEMORY_ID
from labd.drivers.node.qemu.carrier import QemuCarriers
from labd.drivers.node.qemu.driver import driver_of, qemu_driver
from labd.drivers.node.qemu.guest_files import QemuGuestFiles
from labd.drivers.node.qemu.interfaces import QemuInterfaces
from labd.drivers.node.qemu.plug import QemuDevices
from labd.drivers.node.qemu.qemu import QemuHypervisor
from labd.drivers.node.qemu.screen import QemuScreens
from labd.drivers.node.qemu.snapshots import QemuSnapshots
from labd.drivers.node.qemu.vm import VmTimes

__all__ = [
    "MEMORY_ID",
    "QemuCarriers",
    "QemuDevices",
    "QemuGuestFiles",
    "QemuHypervisor",
    "QemuInterfaces",
    "QemuScreens",
    "QemuSnapshots",
    "VmTimes",
    "driver_of",
    "qemu_driver",
]
