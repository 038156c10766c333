"""A fake of the kind `vm`, with everything that a kind may offer."""

from __future__ import annotations

from labd.drivers.node.driver import NodeDriver
from labd.model.kinds import DEFAULT_KIND
from tests.fakes.checkpoints import FakeSnapshots
from tests.fakes.devices import FakeDevices
from tests.fakes.guests import FakeGuestFiles
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.networks import FakeCarriers
from tests.fakes.screens import FakeScreens
from tests.fakes.services import FakeInterfaces


def fake_driver(host: FakeHost) -> NodeDriver:
    """Return a driver of the machines of a host."""
    hypervisor = FakeHypervisor(host)
    return NodeDriver(
        kind=DEFAULT_KIND,
        port=hypervisor,
        consoles=hypervisor,
        agents=hypervisor,
        accelerators=hypervisor,
        guest_files=FakeGuestFiles(host),
        interfaces=FakeInterfaces(),
        screens=FakeScreens(host),
        devices=FakeDevices(host),
        snapshots=FakeSnapshots(host, hypervisor),
        carriers=FakeCarriers(host),
    )
