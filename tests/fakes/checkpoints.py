"""Frozen machines of a `FakeHost`, and a store of checkpoints in memory.

A machine's memory is what it has said: that is what a copy of it has said, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labd.model.checkpoints import (
    CheckpointRecord,
    HostFacts,
    Incoming,
    Saved,
    SavedNode,
    SaveOrder,
)
from labd.model.disks import DiskRef, digest_of_layer, layer_disk
from labd.model.errors import InputError, LaunchFailed, StorageFailed
from labd.model.machine import MachineSpec, RunState
from labd.model.process import ProcessId
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.storage import FakeStorage


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class FakeSnapshots:
    """Implements the port `Snapshots`.

    Attributes:
        fail: Message with which the next save fails, behind the barrier.
        gate: A save begins when it is set.
        slow: Lab -> what its machines wait for before they are loaded.
    """

    def __init__(self, host: FakeHost, hypervisor: FakeHypervisor) -> None:
        self._host = host
        self._hypervisor = hypervisor
        self.fail = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.slow: dict[str, asyncio.Event] = {}
        self.announced: list[str] = []
        self.clocks: list[str] = []
        self.authorized: dict[str, dict[str, tuple[str, ...]]] = {}
        self.host_facts = HostFacts(qemu="7.2.0", machines=frozenset({"pc-q35-7.2"}))

    async def facts(self) -> HostFacts:
        return self.host_facts

    def fingerprint(self, machine: MachineSpec) -> str:
        seen = (machine.memory, machine.vcpus, [nic.mac for nic in machine.nics])
        return _digest(repr(seen).encode())

    def own_files(self, machine: MachineSpec) -> Sequence[str]:
        return ()

    async def save(self, orders: Sequence[SaveOrder], *, go_on: bool) -> Saved:
        await self.gate.wait()
        ran = [self._host.machines[order.key].state is RunState.RUNNING for order in orders]
        for order in orders:
            await self._hypervisor.pause(order.key)
        if self.fail:
            for order, was in zip(orders, ran, strict=True):
                await self.abandon(order.key, run=was)
            raise StorageFailed(self.fail)
        for order in orders:
            order.stream.write_bytes(bytes(self._host.machines[order.key].output))
        for order, was in zip(orders, ran, strict=True):
            await self.abandon(order.key, run=was and go_on)
        kinds = {order.key: "pc-q35-7.2" for order in orders}
        agents = frozenset(o.key for o in orders if self._host.machines[o.key].agent)
        pauses = {order.key: 0.01 for order in orders} if go_on else {}
        return Saved(machine_types=kinds, agents=agents, spread=0.001, pauses=pauses)

    async def abandon(self, key: str, *, run: bool) -> None:
        if run and self._host.machines[key].state is RunState.PAUSED:
            await self._hypervisor.resume(key)

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], incoming: Incoming
    ) -> ProcessId:
        process = await self._hypervisor.launch(machine, taps)
        made = self._host.machines[machine.key]
        made.output += os.pread(incoming.ram, 1 << 20, 0)
        made.state = RunState.PAUSED
        made.agent = self._host.opens_agent
        return process

    async def loaded(self, key: str) -> None:
        machine = self._host.machines.get(key)
        if machine is not None and machine.spec.lab in self.slow:
            await self.slow[machine.spec.lab].wait()
        if key not in self._host.machines:
            raise LaunchFailed(f"{key} has ended")

    async def announce(self, key: str) -> None:
        self.announced.append(key)

    async def authorize(self, key: str, keys: Mapping[str, Sequence[str]]) -> bool:
        self.authorized[key] = {user: tuple(of_user) for user, of_user in keys.items()}
        return True

    async def set_clock(self, key: str) -> bool:
        self.clocks.append(key)
        return True


class FakeCheckpoints:
    """Implements the port `Checkpoints`; outlives daemons. `kept` is key -> node -> memory."""

    def __init__(self, root: Path, storage: FakeStorage) -> None:
        self._root = root
        self._storage = storage
        self.kept: dict[str, dict[str, bytes]] = {}
        self.staged: dict[str, dict[str, bytes]] = {}
        self.layers: dict[str, bytes] = {}
        self.exported: dict[str, CheckpointRecord] = {}
        self.fail: dict[str, Exception] = {}

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    async def stage(self, key: str) -> Path:
        self._may("stage")
        folder = self._root / key
        folder.mkdir(parents=True, exist_ok=True)
        self.staged[key] = {}
        return folder

    async def absorb(self, key: str, node: str, stream: Path) -> tuple[str, int, str]:
        self._may("absorb")
        data = stream.read_bytes()
        stream.unlink()
        self.staged[key][node] = data
        return _digest(data), len(data), _digest(b"state")

    async def digest(self, key: str, name: str) -> str:
        return _digest((self._root / key / name).read_bytes())

    async def add_layer(self, ref: DiskRef) -> str:
        self._may("add_layer")
        data = self._storage.path(ref).read_bytes()
        self.layers[_digest(data)] = data
        return _digest(data)

    def layer(self, digest: str) -> DiskRef:
        return layer_disk(digest)

    def digest_of(self, ref: DiskRef) -> str:
        return digest_of_layer(ref)

    async def publish(self, record: CheckpointRecord) -> int:
        self._may("publish")
        self.kept[record.key] = self.staged.pop(record.key)
        return 1

    async def verify(self, record: CheckpointRecord) -> None:
        for node in record.nodes:
            for disk in node.disks:
                for digest in disk.layers:
                    if digest not in self.layers:
                        raise StorageFailed(f"checkpoint {record.name}: no layer {digest[:19]}")

    async def incoming(self, record: CheckpointRecord, node: SavedNode) -> Incoming:
        self._may("incoming")
        ram = os.memfd_create("fake-ram")
        os.write(ram, self.kept[record.key][node.name])
        return Incoming(ram=ram, state=os.memfd_create("fake-state"))

    async def copy_file(self, key: str, name: str, target: Path) -> None:
        target.write_bytes(b"")

    async def pack(self, record: CheckpointRecord) -> AsyncIterator[bytes]:
        self.exported[record.key] = record
        yield b"exported " + record.key.encode()
        self._may("pack")  # it breaks off

    async def receive(self, key: str, name: str, chunks: AsyncIterator[bytes]) -> CheckpointRecord:
        words = b"".join([chunk async for chunk in chunks]).split()
        if words[:1] != [b"exported"]:
            raise InputError("this is no exported checkpoint")
        record = self.exported[words[1].decode()]
        self.staged[key] = dict(self.kept[record.key])
        return replace(record, key=key, name=name)

    async def discard(self, key: str) -> None:
        self.kept.pop(key, None)
        self.staged.pop(key, None)

    def collect(self, layers: Collection[str]) -> None:
        self.layers = {digest: data for digest, data in self.layers.items() if digest in layers}

    async def sweep(self, keys: Collection[str], layers: Collection[str]) -> Sequence[str]:
        gone = [*self.staged, *(key for key in self.kept if key not in keys)]
        for key in gone:
            await self.discard(key)
        self.collect(layers)
        return gone

    def trim(self, in_use: Collection[str]) -> None:
        pass

    def loaded(self) -> Mapping[str, int]:
        return {key: sum(map(len, nodes.values())) for key, nodes in self.kept.items()}

    def close(self) -> None:
        pass
