"""What a lab is, and what its machines shall be: read and worked out, with nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labd.core.adapters import Adapters
from labd.core.chains import keep
from labd.core.resolve import Sized, machine_of, resolvers_of, seed_of, size_node
from labd.core.state_writer import StateWriter
from labd.model.access import KeyPair
from labd.model.disks import image_disk
from labd.model.images import Image, Profile
from labd.model.machine import CpuSetting, MachineSpec
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, NodeRecord
from labd.model.specs import LabSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSnapshot:
    """A lab as it stands at the begin of a step."""

    lab: LabRecord
    nodes: dict[str, NodeRecord]
    sized: dict[str, Sized]
    network: LabNetworkPlan
    key: KeyPair


class SnapshotLoader:
    """Reads labs with all that their specs name."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer

    async def library(self) -> tuple[Mapping[str, Profile], Mapping[str, Image]]:
        """Return profiles and images by name."""
        profiles = {p.name: p for p in await self._adapters.inventory.profiles()}
        images = {i.name: i for i in await self._adapters.inventory.images()}
        return profiles, images

    async def size(self, spec: LabSpec) -> dict[str, Sized]:
        """Look up everything that the nodes of a spec name.

        Raises:
            InputError: Something does not exist or does not fit together.
        """
        profiles, images = await self.library()
        return {node.name: size_node(node, profiles, images) for node in spec.nodes}

    async def snapshot(self, name: str) -> LabSnapshot:
        """Read a lab with all its parts."""
        return await self.of(
            await self._state_writer.lab(name), await self._adapters.inventory.nodes(name)
        )

    async def of(self, lab: LabRecord, records: Iterable[NodeRecord]) -> LabSnapshot:
        """Return the scene of a lab of which there need not be a row yet, and of its nodes."""
        nodes = {node.name: node for node in records}
        return LabSnapshot(
            lab=lab,
            nodes=nodes,
            sized=await self.size(lab.spec),
            network=self._adapters.network_plan(lab, nodes),
            key=await self._adapters.keys.ensure(lab.key),
        )

    def machine(
        self, snapshot: LabSnapshot, node: NodeRecord, *, kvm: bool, cpu: CpuSetting
    ) -> MachineSpec:
        """Return the machine that a node shall be."""
        sized = snapshot.sized[node.name]
        medium = sized.medium
        machine = machine_of(
            snapshot.lab.spec,
            snapshot.lab.name,
            sized,
            node,
            folder=self._adapters.node_folder(node.key),
            run=self._adapters.run / "n" / node.key,
            files=self._adapters.images.files(sized.image),
            medium=image_disk(medium.digest) if medium else None,
            storage=self._adapters.disk_class,
            kvm=kvm,
            cpu=cpu,
            authorized_keys=(snapshot.key.public, *self._adapters.authorized_keys),
            resolvers=resolvers_of(snapshot.lab.spec, snapshot.network),
        )
        return keep(machine, node.machine)

    def seed(self, snapshot: LabSnapshot, node: NodeRecord) -> Mapping[str, bytes]:
        """Return the files of a node's CD for cloud-init; none when it gets none."""
        return seed_of(
            snapshot.lab.spec,
            snapshot.sized[node.name],
            node,
            authorized_keys=(snapshot.key.public, *self._adapters.authorized_keys),
            resolvers=resolvers_of(snapshot.lab.spec, snapshot.network),
        )
