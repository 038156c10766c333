"""What a lab is, and what its machines shall be: read and worked out, with nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labd.engine.chains import keep
from labd.engine.journal import Journal
from labd.engine.resolve import Sized, machine_of, resolvers_of, seed_of, size_node
from labd.engine.world import World
from labd.model.access import KeyPair
from labd.model.machine import CpuSetting, MachineSpec
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, NodeRecord
from labd.model.specs import Image, LabSpec, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A lab as it stands at the begin of a step."""

    lab: LabRecord
    nodes: dict[str, NodeRecord]
    sized: dict[str, Sized]
    network: LabNetworkPlan
    key: KeyPair


class Scenes:
    """Reads labs with all that their specs name."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world = world
        self._journal = journal

    async def library(self) -> tuple[Mapping[str, Profile], Mapping[str, Image]]:
        """Return profiles and images by name."""
        profiles = {p.name: p for p in await self._world.inventory.profiles()}
        images = {i.name: i for i in await self._world.inventory.images()}
        return profiles, images

    async def size(self, spec: LabSpec) -> dict[str, Sized]:
        """Look up everything that the nodes of a spec name.

        Raises:
            InputError: Something does not exist or does not fit together.
        """
        profiles, images = await self.library()
        return {node.name: size_node(node, profiles, images) for node in spec.nodes}

    async def scene(self, name: str) -> Scene:
        """Read a lab with all its parts."""
        return await self.of(await self._journal.lab(name), await self._world.inventory.nodes(name))

    async def of(self, lab: LabRecord, records: Iterable[NodeRecord]) -> Scene:
        """Return the scene of a lab of which there need not be a row yet, and of its nodes."""
        nodes = {node.name: node for node in records}
        return Scene(
            lab=lab,
            nodes=nodes,
            sized=await self.size(lab.spec),
            network=self._world.network_plan(lab, nodes),
            key=await self._world.keys.ensure(lab.key),
        )

    def machine(self, scene: Scene, node: NodeRecord, *, kvm: bool, cpu: CpuSetting) -> MachineSpec:
        """Return the machine that a node shall be."""
        sized = scene.sized[node.name]
        medium = sized.medium
        machine = machine_of(
            scene.lab.spec,
            scene.lab.name,
            sized,
            node,
            folder=self._world.node_folder(node.key),
            run=self._world.run / "n" / node.key,
            files=self._world.images.files(sized.image),
            medium=self._world.images.files(medium)["disk"] if medium else None,
            kvm=kvm,
            cpu=cpu,
            authorized_keys=(scene.key.public, *self._world.authorized_keys),
            resolvers=resolvers_of(scene.lab.spec, scene.network),
        )
        return keep(machine, node.machine)

    def seed(self, scene: Scene, node: NodeRecord) -> Mapping[str, bytes]:
        """Return the files of a node's CD for cloud-init; none when it gets none."""
        return seed_of(
            scene.lab.spec,
            scene.sized[node.name],
            node,
            authorized_keys=(scene.key.public, *self._world.authorized_keys),
            resolvers=resolvers_of(scene.lab.spec, scene.network),
        )
