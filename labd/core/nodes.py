"""The nodes of a daemon, whatever their kinds: each call goes to the driver of its machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from labd.core.taps import close_taps
from labd.drivers.node.capabilities import (
    Agents,
    Carriers,
    Consoles,
    Devices,
    GuestFiles,
    Interfaces,
    Screens,
    Snapshots,
)
from labd.drivers.node.driver import NodeDriver
from labd.model.errors import CapabilityMissing, Conflict, KindUnknown
from labd.model.kinds import DEFAULT_KIND, Capability, Kinds
from labd.model.machine import (
    AccelChoice,
    CpuSetting,
    FoundMachine,
    GuestEvent,
    MachineSpec,
    RunState,
)
from labd.model.names import did_you_mean
from labd.model.needs import needs
from labd.model.process import ProcessId, Spawned
from labd.model.specs import Accel, LabSpec

# A machine's key, of the driver that has it; or a machine, whose kind says which.
At = str | MachineSpec


class Nodes:
    """The registry of node drivers.

    Calls by key go to the driver that has that machine; where none has, the driver of `vm` answers
    as its port says. Capabilities raise `CapabilityMissing` for a kind that lacks them.

    Args:
        drivers: Kind -> driver; `vm` is one of them.
    """

    def __init__(self, drivers: Mapping[str, NodeDriver]) -> None:
        self.drivers = MappingProxyType(dict(drivers))

    @property
    def kinds(self) -> Kinds:
        """Kind -> what it offers."""
        return {kind: driver.capabilities for kind, driver in self.drivers.items()}

    def of(self, kind: str) -> NodeDriver:
        """Return the driver of a kind.

        Raises:
            KindUnknown: This daemon has none.
        """
        if kind not in self.drivers:
            raise KindUnknown(
                f"there is no kind of node {kind!r} here{did_you_mean(kind, self.drivers)}; "
                f"known: {', '.join(sorted(self.drivers))}",
                kind=kind,
            )
        return self.drivers[kind]

    def at(self, at: At) -> NodeDriver:
        """Return the driver of a machine."""
        if isinstance(at, MachineSpec):
            return self.of(at.kind)
        having = (driver for driver in self.drivers.values() if driver.port.has(at))
        return next(having, self.drivers[DEFAULT_KIND])

    def require(self, spec: LabSpec) -> None:
        """Raise if a node of a lab asks for what its kind lacks.

        Raises:
            KindUnknown, CapabilityMissing: Names the first such node, its kind and what it lacks.
        """
        for node in spec.nodes:
            has = self.of(node.kind).capabilities
            for capability, path in needs(node):
                if capability not in has:
                    key = ".".join(map(str, path))
                    raise CapabilityMissing(
                        f"node {node.name}: {key} needs a {capability}, and nodes of kind "
                        f"{node.kind} have none; leave it out, or use another kind",
                        node=node.name,
                        kind=node.kind,
                        capability=str(capability),
                    )

    # capabilities

    def consoles(self, at: At) -> Consoles:
        """Return the serial lines of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.CONSOLE, driver.consoles)

    def agents(self, at: At) -> Agents:
        """Return what talks to guest agents of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.AGENT, driver.agents)

    def guest_files(self, at: At) -> GuestFiles:
        """Return what reads and writes files of guests of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.AGENT, driver.guest_files)

    def interfaces(self, at: At) -> Interfaces:
        """Return what asks guests of a machine's kind for their addresses."""
        driver = self.at(at)
        return driver.require(Capability.AGENT, driver.interfaces)

    def screens(self, at: At) -> Screens:
        """Return the screens of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.SCREEN, driver.screens)

    def devices(self, at: At) -> Devices:
        """Return what plugs devices into machines of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.HOT_PLUG, driver.devices)

    def snapshots(self, at: At) -> Snapshots:
        """Return what saves machines of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.CHECKPOINT, driver.snapshots)

    def carriers(self, at: At) -> Carriers:
        """Return what switches carriers of a machine's kind."""
        driver = self.at(at)
        return driver.require(Capability.CARRIER, driver.carriers)

    def snapshots_of(self, kinds: Iterable[str]) -> Snapshots:
        """Return what saves all machines of a lab, behind one barrier.

        Raises:
            CapabilityMissing: One of the kinds has no checkpoints.
            Conflict: They are of several kinds, which have no barrier in common.
        """
        found = {kind: self.of(kind) for kind in kinds}
        savers = [
            driver.require(Capability.CHECKPOINT, driver.snapshots) for driver in found.values()
        ]
        if len(savers) > 1:
            raise Conflict(
                f"a lab with nodes of the kinds {', '.join(sorted(found))} cannot be saved: there "
                "is no moment at which all of them stand still"
            )
        default = self.drivers[DEFAULT_KIND]
        return savers[0] if savers else default.require(Capability.CHECKPOINT, default.snapshots)

    async def accel(self, kind: str, wanted: Accel, cpu: CpuSetting | None = None) -> AccelChoice:
        """Choose the accelerator of a node; a kind without any has plain `AccelChoice(kvm=False)`.

        Raises:
            CapabilityMissing: KVM was asked for and the kind has no accelerator.
            LaunchFailed: KVM was asked for and cannot be opened.
        """
        driver = self.of(kind)
        if driver.accelerators is None and wanted is not Accel.KVM:
            return AccelChoice(kvm=False)
        choose = driver.require(Capability.ACCELERATOR, driver.accelerators)
        return await choose.accel(wanted, cpu)

    # the life of machines: see `drivers.node.port.NodePort`

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        """Have `listener` called for each event of a machine of any kind."""
        for driver in self.drivers.values():
            driver.port.listen(listener)

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], *, spawned: Spawned | None = None
    ) -> ProcessId:
        """Start a machine, held still."""
        try:
            port = self.of(machine.kind).port
        except KindUnknown:
            close_taps(taps)
            raise
        return await port.launch(machine, taps, spawned=spawned)

    async def adopt(self, machine: MachineSpec, process: ProcessId) -> RunState:
        """Take over a process that an earlier daemon launched."""
        return await self.of(machine.kind).port.adopt(machine, process)

    async def scan(self) -> Sequence[FoundMachine]:
        """Find every machine of this root, each with its kind."""
        found = await asyncio.gather(*(d.port.scan() for d in self.drivers.values()))
        return [
            replace(machine, kind=kind)
            for kind, machines in zip(self.drivers, found, strict=True)
            for machine in machines
        ]

    async def resume(self, key: str) -> None:
        """Let the CPUs run."""
        await self.at(key).port.resume(key)

    async def pause(self, key: str) -> None:
        """Stop the CPUs."""
        await self.at(key).port.pause(key)

    async def reset(self, key: str) -> None:
        """Reset the machine."""
        await self.at(key).port.reset(key)

    async def power_down(self, key: str) -> None:
        """Ask the guest to power off."""
        await self.at(key).port.power_down(key)

    async def kill(self, key: str, *, discard: bool = False) -> None:
        """End a machine and wait for its end (idempotent)."""
        await self.at(key).port.kill(key, discard=discard)

    async def kill_process(self, found: FoundMachine) -> None:
        """End a machine found by `scan` that nobody knows."""
        await self.of(found.kind).port.kill_process(found.process)

    async def query(self, key: str) -> RunState:
        """Ask what a machine is doing."""
        return await self.at(key).port.query(key)

    def rename(self, machine: MachineSpec) -> None:
        """Call a running machine what its new spec calls it."""
        self.at(machine).port.rename(machine)

    async def forget(self, *machines: MachineSpec) -> None:
        """Remove what ended machines leave in their run folders (idempotent)."""
        by_kind: dict[str, list[MachineSpec]] = {}
        for machine in machines:
            by_kind.setdefault(machine.kind, []).append(machine)
        for kind, found in by_kind.items():
            await self.of(kind).port.forget(*found)

    def message_log(self, machine: MachineSpec) -> Path:
        """Return the path of what the process of a machine said since the launch."""
        return self.at(machine).port.message_log(machine)

    async def close(self) -> None:
        """Let go of every machine without touching it."""
        for driver in self.drivers.values():
            await driver.port.close()
