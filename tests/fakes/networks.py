"""Networks in memory, and what happens on their wires."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from labd.model.captures import CaptureEnd
from labd.model.errors import InputError, NetworkFailed, NodeGone, NodeUnresponsive, QmpRefused
from labd.model.impairment import Impairment
from labd.model.links import ShapePlan
from labd.model.network import LabNetworkPlan
from tests.fakes.host import FakeHost


class FakeNetworks:
    """Implements the port `Networks`; `spaces` is namespace -> bridges.

    `fail` is verb -> error; such a call fails with it.
    """

    def __init__(self) -> None:
        self.spaces: dict[str, set[str]] = {}
        self.listening: set[tuple[str, int]] = set()
        self.fail: dict[str, Exception] = {}

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    async def apply(self, plan: LabNetworkPlan) -> None:
        self._may("apply")
        self.spaces[plan.namespace] = {bridge.bridge for bridge in plan.bridges}

    async def open_taps(
        self, plan: LabNetworkPlan, keys: Iterable[str]
    ) -> dict[str, dict[str, int]]:
        self._may("open_taps")
        wanted = set(keys)
        taps: dict[str, dict[str, int]] = {key: {} for key in wanted}
        ports = [port for port in plan.ports if port.key in wanted]
        if ports and plan.namespace not in self.spaces:
            raise NetworkFailed(f"cannot open namespace {plan.namespace}: No such file")
        for port in ports:
            if port.bridge not in self.spaces[plan.namespace]:
                raise NetworkFailed(
                    f"tap {port.tap}: there is no bridge {port.bridge}", errno=errno.ENODEV
                )
        for port in ports:
            taps[port.key][port.nic] = os.eventfd(0)
        return taps

    async def unplug(self, namespace: str) -> None:
        self._may("unplug")

    async def remove(self, namespace: str) -> None:
        self._may("remove")
        self.spaces.pop(namespace, None)

    async def namespaces(self) -> Sequence[str]:
        return sorted(self.spaces)

    async def bridges(self, namespace: str) -> Sequence[str]:
        self._may("bridges")
        return sorted(self.spaces.get(namespace, ()))

    async def probe_tcp(self, namespace: str, address: str, port: int, timeout: float) -> bool:
        return (address, port) in self.listening


def open_taps() -> list[int]:
    """Return the taps of FakeNetworks that are open in this process."""
    taps = []
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{entry}") == "anon_inode:[eventfd]":
                taps.append(int(entry))
    return taps


class FakeLinks:
    """Implements the port `Links` on a kernel without the emulator, until `netem` is set.

    `shapes` is namespace -> (tap, device) -> impairment.
    """

    def __init__(self, networks: FakeNetworks) -> None:
        self._networks = networks
        self.netem = False
        self.fail: Exception | None = None
        self.shapes: dict[str, dict[tuple[str, str], Impairment]] = {}

    async def check(self, wanted: Iterable[Impairment]) -> None:
        if not self.netem and any(item.needs_netem for item in wanted):
            raise InputError("this kernel has no CONFIG_NET_SCH_NETEM")

    async def apply(self, namespace: str, shapes: Sequence[ShapePlan]) -> None:
        if self.fail is not None:
            raise self.fail
        if namespace in self._networks.spaces:
            found = {(shape.tap, shape.device): shape.sends for shape in shapes}
            self.shapes[namespace] = found


class FakeCarriers:
    """Implements the port `Carriers` for the machines of a `FakeHost`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def set_carrier(self, key: str, nic: str, *, up: bool) -> None:
        machine = self._host.machines.get(key)
        if machine is None:
            raise NodeGone(f"machine {key} does not run")
        if machine.hung:
            raise NodeUnresponsive(f"{machine.name} hangs")
        if nic not in {item.id for item in machine.spec.nics}:
            raise QmpRefused(f"QEMU refused set_link for {machine.name}: no device {nic}")
        (machine.dark.discard if up else machine.dark.add)(nic)


class FakeCapture:
    """Implements `PacketCapture`: one packet, then it waits."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.reason = ""
        self.closed = False
        self._blocks = [b"head", b"packet"]
        self._stop = asyncio.Event()

    async def read(self) -> bytes:
        if self._blocks:
            return self._blocks.pop(0)
        await self._stop.wait()
        return b""

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._stop.set()

    def end(self) -> tuple[bytes, CaptureEnd]:
        self.close()
        return b"tail", CaptureEnd(packets=1, dropped=0, reason=self.reason)

    def close(self) -> None:
        self.stop("closed")
        self.closed = True


class FakeCaptures:
    """Implements the port `Captures`; `open_ones` is the captures with their namespaces."""

    def __init__(self) -> None:
        self.open_ones: list[tuple[str, FakeCapture]] = []

    async def open(
        self, namespace: str, device: str, name: str, filter: str, count: int
    ) -> FakeCapture:
        if filter == "bad":
            raise InputError("filter 'bad': syntax error; see pcap-filter(7)")
        made = FakeCapture(device)
        if count:
            made.stop("count")
        self.open_ones.append((namespace, made))
        return made

    def end_all(self, namespace: str, reason: str) -> None:
        for where, capture in self.open_ones:
            if where == namespace:
                capture.stop(reason)
                capture.close()
