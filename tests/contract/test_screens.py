"""What the engine may rely on of screens, on the fake and on real QEMU alike."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labd.drivers.node.capabilities import Consoles, Screens
from labd.drivers.node.port import NodePort
from labd.drivers.node.qemu import QemuHypervisor, QemuScreens
from labd.model.errors import NodeGone
from labd.model.keys import presses
from labd.model.specs import Display
from tests.disks import FileDisks
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.screens import FakeScreens
from tests.guests import UP, machine_spec


@dataclass
class Rig:
    hv: NodePort
    consoles: Consoles
    screens: Screens


@pytest.fixture(params=["fake", "qemu"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    root = Path(tempfile.mkdtemp(prefix="labd-sc-"))
    if request.param == "fake":
        host = FakeHost()
        fake = FakeHypervisor(host)
        rig = Rig(hv=fake, consoles=fake, screens=FakeScreens(host))
    else:
        hv = QemuHypervisor(root.name[-8:].replace("_", "-").lower(), root, storage=FileDisks())
        rig = Rig(hv=hv, consoles=hv, screens=QemuScreens(hv.machine))
    try:
        await rig.hv.launch(machine_spec(root, display=Display.VNC), {})
        await rig.hv.resume("k1")
        await asyncio.wait_for(rig.consoles.wait_console("k1", UP), 20)
        yield rig
    finally:
        await rig.hv.kill("k1")
        await rig.hv.close()
        shutil.rmtree(root)


async def test_a_picture_is_png_again_and_again(rig: Rig) -> None:
    for _ in range(3):
        picture = await rig.screens.screenshot("k1")
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert picture.endswith(b"IEND\xaeB`\x82")
        assert int.from_bytes(picture[16:20], "big") in {640, 720}


async def test_keys_are_pressed(rig: Rig) -> None:
    await rig.screens.press("k1", presses("Hi!", ["ctrl-alt-f2", "enter"]))


async def test_several_viewers_are_greeted_and_leave(rig: Rig) -> None:
    viewers = [await rig.screens.viewer("k1") for _ in range(3)]
    for viewer in viewers:
        assert await asyncio.wait_for(viewer.read(), 5) == b"RFB 003.008\n"
    await viewers[0].close()
    await viewers[1].write(b"RFB 003.008\n")
    assert await asyncio.wait_for(viewers[1].read(), 5) == b"\x01\x01"  # no authentication
    for viewer in viewers:
        await viewer.close()


async def test_a_machine_that_has_ended_has_no_screen(rig: Rig) -> None:
    await rig.hv.kill("k1")
    with pytest.raises(NodeGone):
        await rig.screens.screenshot("k1")
    with pytest.raises(NodeGone):
        await rig.screens.press("k1", presses("a", []))
    with pytest.raises(NodeGone):
        await rig.screens.viewer("k1")
