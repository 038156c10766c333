"""Captures at the taps and bridges of the kernel, without machines."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labd.drivers.network.linux import LabCaptures, LabNetworks
from labd.drivers.network.port import PacketCapture
from labd.model.errors import InputError, NetworkFailed
from labd.model.network import BridgePlan, LabNetworkPlan, PortPlan

KEYS = ("aaaaaa", "bbbbbb")
HEADER = bytes(10)  # virtio-net
ETHERNET = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01"
FRAME = ETHERNET + b"\x88\xb5" + b"hello".ljust(46)


class Lab:
    """A lab of two taps in one bridge."""

    def __init__(self) -> None:
        self.networks = LabNetworks(root := secrets.token_hex(4))
        self.captures = LabCaptures()
        self.plan = LabNetworkPlan(
            namespace=f"labd-{root}-one",
            bridges=(BridgePlan(network="lan", bridge="br-lan", wire=True),),
            ports=tuple(
                PortPlan(key=key, nic="n0", tap=f"t{key}0", bridge="br-lan") for key in KEYS
            ),
        )
        self.taps: dict[str, dict[str, int]] = {}

    def send(self, frame: bytes = FRAME, times: int = 1) -> None:
        for _ in range(times):
            os.write(self.taps["aaaaaa"]["n0"], HEADER + frame)

    async def capture(self, device: str, filter: str = "", count: int = 0) -> PacketCapture:
        return await self.captures.open(self.plan.namespace, device, "w/lan", filter, count)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    made = Lab()
    await made.networks.apply(made.plan)
    made.taps = await made.networks.open_taps(made.plan, KEYS)
    yield made
    for fds in made.taps.values():
        for fd in fds.values():
            os.close(fd)
    await made.networks.remove(made.plan.namespace)


async def whole(capture: PacketCapture, path: Path) -> int:
    """Write a capture to its end; return the frames that it says it has."""
    async with asyncio.timeout(10):
        with path.open("wb") as file:
            while data := await capture.read():
                file.write(data)
            tail, told = capture.end()
            file.write(tail)
    return told.packets


def dissected(path: Path, *fields: str) -> list[str]:
    argv = [
        "tshark",
        "-r",
        str(path),
        "-T",
        "fields",
        *(word for f in fields for word in ("-e", f)),
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("device", ["br-lan", "taaaaaa0", "tbbbbbb0"])
async def test_frames_are_seen_at_bridge_and_taps(lab: Lab, device: str, tmp_path: Path) -> None:
    capture = await lab.capture(device, "ether proto 0x88b5", 3)
    lab.send(times=5)
    assert await whole(capture, tmp_path / "x") == 3
    rows = dissected(tmp_path / "x", "frame.len", "eth.src", "eth.type")
    assert rows == ["60\t02:00:00:00:00:01\t0x88b5"] * 3


async def test_a_vlan_tag_is_put_back(lab: Lab, tmp_path: Path) -> None:
    capture = await lab.capture("br-lan", "ether src 02:00:00:00:00:01", 1)
    lab.send(ETHERNET + b"\x81\x00\x60\x05\x88\xb5" + b"hello".ljust(46))
    await whole(capture, tmp_path / "x")
    assert dissected(tmp_path / "x", "frame.len", "vlan.id", "vlan.etype") == ["64\t5\t0x88b5"]


async def test_a_link_passes_lldp_on(lab: Lab, tmp_path: Path) -> None:
    capture = await lab.capture("tbbbbbb0", "ether proto 0x88cc", 1)
    lab.send(b"\x01\x80\xc2\x00\x00\x0e" + FRAME[6:12] + b"\x88\xcc" + bytes(46))
    assert await whole(capture, tmp_path / "x") == 1


async def test_a_slow_reader_loses_frames_and_is_told(lab: Lab) -> None:
    capture = await lab.capture("br-lan", "ether proto 0x88b5")
    await capture.read()  # the head
    await asyncio.to_thread(lab.send, ETHERNET + b"\x88\xb5" + bytes(1400), 8000)
    capture.stop("asked")
    _, told = capture.end()
    assert told.dropped > 1000
    other = await lab.capture("br-lan")
    other.close()


async def test_an_interface_that_goes_ends_its_captures(lab: Lab, tmp_path: Path) -> None:
    capture = await lab.capture("taaaaaa0")
    reading = asyncio.create_task(whole(capture, tmp_path / "x"))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await lab.networks.unplug(lab.plan.namespace)
    await reading


async def test_a_lab_that_goes_down_ends_its_captures(lab: Lab, tmp_path: Path) -> None:
    captures = [await lab.capture("br-lan") for _ in range(3)]
    reading = [
        asyncio.create_task(whole(capture, tmp_path / str(at)))
        for at, capture in enumerate(captures)
    ]
    await asyncio.sleep(0.1)
    lab.captures.end_all(lab.plan.namespace, "lab w is down")
    await asyncio.gather(*reading)


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ("tcp prot 80", "filter 'tcp prot 80': can't parse filter expression: syntax error"),
        ("host nowhere.example", "filter 'host nowhere.example': unknown host 'nowhere.example'"),
        ("vlan 5", "filter 'vlan' finds nothing here, for the kernel takes tags off before"),
        ("a\nb", "a filter is one line of at most 2000 characters"),
        ("-w /tmp/x", "filter '-w /tmp/x': can't parse filter expression: syntax error"),
    ],
)
async def test_bad_filters(lab: Lab, filter: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        await lab.capture("br-lan", filter)
    assert caught.value.message.startswith(says)
    assert "\n" not in caught.value.message


async def test_what_is_not_there(lab: Lab) -> None:
    with pytest.raises(NetworkFailed, match="cannot capture at t0: No such device"):
        await lab.capture("t0")
