"""QEMU: its command line, its process, its monitor, its console and its guest agent."""

from labd.hypervisor.argv import MEMORY_ID
from labd.hypervisor.carrier import QemuCarriers
from labd.hypervisor.guest_files import QemuGuestFiles
from labd.hypervisor.interfaces import QemuInterfaces
from labd.hypervisor.plug import QemuDevices
from labd.hypervisor.qemu import QemuHypervisor
from labd.hypervisor.screen import QemuScreens
from labd.hypervisor.snapshots import QemuSnapshots
from labd.hypervisor.vm import VmTimes

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
]
