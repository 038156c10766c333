"""From what a lab is to what it shall be. Level-triggered: doing it twice changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass

from labd.engine.chains import keep
from labd.engine.deps import blockers, hopeless
from labd.engine.diff import needs_new_ports
from labd.engine.hotplug import needs_replacing
from labd.engine.journal import Journal
from labd.engine.live import LiveChanges, Target, nic_names
from labd.engine.publications import Publications
from labd.engine.readiness import ReadinessKeeper
from labd.engine.resolve import Sized, machine_of, resolvers_of, seed_of, size_node
from labd.engine.runner import Launch, NodeRunner
from labd.engine.serving import Serving
from labd.engine.wires import WireService
from labd.engine.world import World
from labd.model.access import KeyPair
from labd.model.errors import GuestFailed, LabdError, NetworkFailed, NodeGone
from labd.model.events import EventType, Happening
from labd.model.machine import MachineSpec
from labd.model.names import NodeRef
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.specs import Image, LabSpec, NodeSpec, Profile
from labd.model.states import NODE_ALIVE, LabState, NodeState

log = logging.getLogger(__name__)

_READY = {NodeState.READY, NodeState.PAUSED}
_OVER = {NodeState.CRASHED, NodeState.PANICKED, NodeState.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A lab as it stands at the begin of a step."""

    lab: LabRecord
    nodes: dict[str, NodeRecord]
    sized: dict[str, Sized]
    network: LabNetworkPlan
    key: KeyPair


async def every(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all jobs to their end at one time, and only then raise the first error of them."""
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        # A fault of labd is told before what may only follow from it.
        raise next((e for e in errors if not isinstance(e, LabdError)), errors[0])


async def all_of(jobs: Iterable[asyncio.Task[None]]) -> None:
    """Wait for all jobs; when one fails, cancel the others, wait for them, and raise its error."""
    jobs = list(jobs)
    if not jobs:
        return
    try:
        await asyncio.gather(*jobs)
    except BaseException:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        raise


class Converger:
    """Starts, stops, changes and removes whole labs."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        runner: NodeRunner,
        readiness: ReadinessKeeper,
        publications: Publications,
        serving: Serving,
        wires: WireService,
    ) -> None:
        self._world = world
        self._journal = journal
        self._runner = runner
        self._readiness = readiness
        self._publications = publications
        self._serving = serving
        self._wires = wires
        self._live = LiveChanges(world, journal, runner)

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
        lab = await self._journal.lab(name)
        nodes = {node.name: node for node in await self._world.inventory.nodes(name)}
        return Scene(
            lab=lab,
            nodes=nodes,
            sized=await self.size(lab.spec),
            network=self._world.network_plan(lab, nodes),
            key=await self._world.keys.ensure(lab.key),
        )

    # up

    async def bring_up(
        self, name: str, operation: OperationRecord, only: Collection[str] | None = None
    ) -> None:
        """Make the networks, and start what should run and does not, by its dependencies.

        Args:
            name: Of the lab.
            operation: That this is done for.
            only: Names of the nodes to start and to wait for; None for all.

        Raises:
            LabdError: The first failure; nodes that this call was starting are stopped again,
                those that run already stay.
        """
        await self._finish_stops(name, operation)
        scene = await self.scene(name)
        await self.prepare_ground(scene, operation)
        due = [
            node
            for node in scene.nodes.values()
            if node.name in scene.sized
            and (only is None or node.name in only)
            and node.wanted is Wanted.RUNNING
            and node.state not in NODE_ALIVE
        ]
        taps = await self._world.networks.open_taps(scene.network, [node.key for node in due])
        starts: dict[str, asyncio.Task[None]] = {}
        try:
            await self._wires.dress(name, fresh=True)
            for node in due:
                task = asyncio.create_task(self._start(scene, node, taps, starts, operation))
                starts[node.name] = task
                # Who depends on the node looks again.
                task.add_done_callback(lambda _: self._journal.wake())
            await all_of([*starts.values(), *self._await_running(scene, operation, only)])
        finally:
            for fds in taps.values():
                for fd in fds.values():
                    os.close(fd)
        await self._journal.settle(name, operation.id)

    async def prepare_ground(self, scene: Scene, operation: OperationRecord) -> None:
        """Make networks and published ports, as far as they are not there."""
        await self._make_networks(scene, operation)
        await self._publications.sync(scene.lab, operation.id)

    async def _finish_stops(self, name: str, operation: OperationRecord) -> None:
        """End what an earlier operation began to stop and could not."""
        nodes = await self._world.inventory.nodes(name)
        await every(
            self._runner.stop(NodeRef(name, node.name), operation.id, force=True)
            for node in nodes
            if node.state is NodeState.STOPPING
        )

    def _await_running(
        self, scene: Scene, operation: OperationRecord, only: Collection[str] | None
    ) -> list[asyncio.Task[None]]:
        """Wait too for nodes that run already and are not ready yet."""
        tasks = []
        for node in scene.nodes.values():
            if node.state is not NodeState.RUNNING or node.name not in scene.sized:
                continue
            if only is not None and node.name not in only:
                continue
            ref, sized = NodeRef(node.lab, node.name), scene.sized[node.name]
            if not self._readiness.watching(node.key):
                self._readiness.watch(
                    ref, node.key, scene.network.namespace, sized.node, sized.ready, operation.id
                )
            tasks.append(asyncio.create_task(self._ready(ref, node.key)))
        return tasks

    async def _make_networks(self, scene: Scene, operation: OperationRecord) -> None:
        there = set(await self._world.networks.bridges(scene.network.namespace))
        await self._world.networks.apply(scene.network)
        await self._world.uplinks.apply(scene.network)
        await self._serving.apply(scene.network)
        new = [bridge for bridge in scene.network.bridges if bridge.bridge not in there]
        if not new:
            return
        async with self._world.inventory.transaction() as tx:
            for bridge in new:
                await tx.emit(
                    Happening(
                        type=EventType.NETWORK_UP,
                        lab=scene.lab.name,
                        subject=bridge.network,
                        operation=operation.id,
                        data={"bridge": bridge.bridge, "namespace": scene.network.namespace},
                    )
                )

    async def _start(
        self,
        scene: Scene,
        node: NodeRecord,
        taps: dict[str, dict[str, int]],
        starts: Mapping[str, asyncio.Task[None]],
        operation: OperationRecord,
    ) -> None:
        ref = NodeRef(node.lab, node.name)
        sized = scene.sized[node.name]
        await self._await_dependencies(scene.lab.name, sized.node, starts)
        async with self._world.booting.take(scene.lab.name):
            choice = await self._world.choose_accel(sized.node.accel)
            machine = self.machine(scene, node, kvm=choice.kvm)
            launch = Launch(
                ref=ref,
                namespace=scene.network.namespace,
                sized=sized,
                machine=machine,
                taps=taps,
                starts=node.starts + 1,
                seed=self.seed(scene, node),
            )
            await self._runner.start(launch, operation.id)
            await self._ready(ref, node.key)

    def machine(self, scene: Scene, node: NodeRecord, *, kvm: bool) -> MachineSpec:
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

    async def _ready(self, ref: NodeRef, key: str) -> None:
        """Wait for a node to be ready, or to end.

        The watch of its readiness may be begun anew meanwhile (it hung for a while, say), so this
        follows what is written, not one task.

        Raises:
            GuestFailed: It ended, or was not ready in time.
        """
        while True:
            changed = self._journal.changed()
            node = await self._world.inventory.node(ref.lab, ref.node)
            if node is None or node.state in _READY:
                return
            if node.state in _OVER:
                why = f": {node.reason}" if node.reason else ""
                raise GuestFailed(
                    f"node {ref} {node.state} before it was ready{why}", node=ref.node
                )
            error = self._readiness.failure(key)
            # The end of a machine is told by its state, which the watcher is writing.
            if error is not None and not isinstance(error, NodeGone):
                raise error
            await changed.wait()

    async def _await_dependencies(
        self, lab: str, spec: NodeSpec, starts: Mapping[str, asyncio.Task[None]]
    ) -> None:
        while spec.depends_on:
            changed = self._journal.changed()
            nodes = await self._world.inventory.nodes(lab)
            states = {node.name: node.state for node in nodes}
            if not blockers(spec, states):
                return
            starting = [name for name, task in starts.items() if not task.done()]
            if lost := hopeless(spec, states, starting):
                state = states.get(lost[0], NodeState.DESTROYED)
                raise GuestFailed(f"node {lab}/{spec.name} waits for {lost[0]}, which is {state}")
            await changed.wait()

    # change

    async def apply(
        self, name: str, operation: OperationRecord, only: Collection[str] | None = None
    ) -> None:
        """Go from `lab.previous` to `lab.spec`: replace what differs, add, and last remove.

        What a running machine takes as it runs is plugged and unplugged.

        Args:
            name: Of the lab.
            operation: That this is done for.
            only: As in `bring_up`.

        Raises:
            LabdError: The first failure; `lab.previous` is still set.
        """
        lab = await self._journal.lab(name)
        if lab.previous is not None:
            await self._stop_replaced(lab, lab.previous, operation)
        await self.bring_up(name, operation, only)
        await self._change_running(name, operation)
        await self._wires.sync(name)
        await self.remove_left_out(name, operation)
        await self._journal.forget_previous(name)

    async def _change_running(self, name: str, operation: OperationRecord) -> None:
        """Plug and unplug what differs between the running machines and the spec."""
        scene = await self.scene(name)
        old = {node.name: node for node in scene.lab.previous.nodes} if scene.lab.previous else {}
        await every(
            self._live.apply(
                Target(
                    node=node,
                    sized=scene.sized[node.name],
                    network=scene.network,
                    then=self.machine(scene, node, kvm=node.machine.kvm),
                    nic_names=nic_names(old.get(node.name), scene.sized[node.name].node),
                    operation=operation.id,
                )
            )
            for node in scene.nodes.values()
            if node.state in NODE_ALIVE and node.name in scene.sized and node.machine is not None
        )

    async def _stop_replaced(
        self, lab: LabRecord, previous: LabSpec, operation: OperationRecord
    ) -> None:
        old = {node.name: node for node in previous.nodes}
        before = {net.name: net for net in previous.networks}
        changed = {n.name for n in lab.spec.networks if needs_new_ports(before.get(n.name, n), n)}
        sized = await self.size(lab.spec)
        await every(
            self._runner.stop(
                NodeRef(lab.name, node.name),
                operation.id,
                force=operation.request.get("force") is True,
            )
            for node in lab.spec.nodes
            if node.name in old
            and (
                needs_replacing(old[node.name], node, iso=sized[node.name].iso)
                or changed.intersection(nic.network for nic in node.nics)
            )
        )

    async def remove_left_out(
        self, name: str, operation: OperationRecord, *, networks: bool = True
    ) -> None:
        """Remove nodes and, unless the lab is down, networks that the spec does not have."""
        lab = await self._journal.lab(name)
        kept = {node.name for node in lab.spec.nodes}
        gone = [n for n in await self._world.inventory.nodes(name) if n.name not in kept]
        await every(self._runner.erase(node, operation.id) for node in gone)
        if gone:
            async with self._world.inventory.transaction() as tx:
                for node in await self._world.inventory.nodes(name):  # as they are by now
                    if node.name in kept:
                        continue
                    await tx.delete_node(name, node.name)
                    await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
                await self._journal.derive(tx, name, operation.id, over=True)
            self._journal.wake()
        if not networks:
            return
        nodes = {node.name: node for node in await self._world.inventory.nodes(name)}
        plan = self._world.network_plan(lab, nodes)
        await self._world.uplinks.apply(plan)
        await self._world.networks.apply(plan)
        await self._serving.apply(plan)
        old = {net.name for net in lab.previous.networks} if lab.previous else set()
        await self._tell_networks_down(
            lab, sorted(old - {net.name for net in lab.spec.networks}), operation
        )

    async def _tell_networks_down(
        self, lab: LabRecord, networks: Iterable[str], operation: OperationRecord
    ) -> None:
        async with self._world.inventory.transaction() as tx:
            for network in networks:
                await tx.emit(
                    Happening(
                        type=EventType.NETWORK_DOWN,
                        lab=lab.name,
                        subject=network,
                        operation=operation.id,
                    )
                )

    # down

    async def take_down(
        self, name: str, operation: OperationRecord, *, force: bool, grace: float
    ) -> None:
        """Stop every node, then remove the networks. Disks are kept."""
        await self._publications.close_lab(name, operation.id)
        nodes = await self._world.inventory.nodes(name)
        if force:
            await self._unplug(await self._journal.lab(name), nodes)
        await every(
            self._runner.stop(NodeRef(name, n.name), operation.id, force=force, grace=grace)
            for n in nodes
        )
        await self._remove_networks(await self._journal.lab(name), operation)
        await self._journal.settle(name, operation.id)

    async def _unplug(self, lab: LabRecord, nodes: Iterable[NodeRecord]) -> None:
        """Take the taps of machines away that are about to be ended, all in one go."""
        if any(node.state in NODE_ALIVE for node in nodes):
            try:
                await self._world.networks.unplug(self._world.namespace(lab))
            except NetworkFailed as error:
                log.info("lab %s: its taps go with its machines: %s", lab.name, error)

    async def _remove_networks(self, lab: LabRecord, operation: OperationRecord) -> None:
        namespace = self._world.namespace(lab)
        there = set(await self._world.networks.bridges(namespace))
        self._world.captures.end_all(namespace, f"lab {lab.name} is down")
        await self._serving.remove(lab, operation.id)
        await self._world.uplinks.remove(namespace)
        await self._world.networks.remove(namespace)
        if there:
            await self._tell_networks_down(lab, [n.name for n in lab.spec.networks], operation)

    async def destroy(self, name: str, operation: OperationRecord) -> None:
        """Remove everything of a lab; its rows go last, so that it can be done again."""
        lab = await self._world.inventory.lab(name)
        if lab is None:
            return
        await self._publications.close_lab(name, operation.id)
        nodes = await self._world.inventory.nodes(name)
        await self._unplug(lab, nodes)
        await every(self._runner.erase(node, operation.id) for node in nodes)
        await self._remove_networks(lab, operation)
        await self._world.keys.remove(lab.key)
        nodes = await self._world.inventory.nodes(name)
        async with self._world.inventory.transaction() as tx:
            for node in nodes:
                await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
            await tx.delete_lab(name)
            data = {"from": str(LabState.DESTROYING), "to": str(LabState.DESTROYED)}
            await tx.emit(
                Happening(type=EventType.LAB_DESTROYED, lab=name, operation=operation.id, data=data)
            )
        self._journal.wake()

    # nodes

    async def stop_nodes(
        self,
        lab: str,
        names: Iterable[str],
        operation: OperationRecord,
        *,
        force: bool,
        grace: float,
    ) -> None:
        """Stop some nodes at one time."""
        await every(
            self._runner.stop(NodeRef(lab, name), operation.id, force=force, grace=grace)
            for name in names
        )
        await self._journal.settle(lab, operation.id)

    async def undo_starts(
        self,
        name: str,
        operation: OperationRecord,
        *,
        before: set[str],
        only: Collection[str] | None,
    ) -> None:
        """Stop the nodes that did not run before; used when a start in an old lab failed.

        Args:
            name: Of the lab.
            operation: That failed.
            before: Names of the nodes that ran before it.
            only: Names of the nodes that it was to start; None for all.
        """
        await every(
            self._runner.stop(NodeRef(name, node.name), operation.id, force=True)
            for node in await self._world.inventory.nodes(name)
            if node.name not in before and (only is None or node.name in only)
        )


def _node_event(kind: EventType, node: NodeRecord, operation: OperationRecord) -> Happening:
    return Happening(
        type=kind,
        lab=node.lab,
        node=node.name,
        operation=operation.id,
        data={"from": str(node.state)},
    )
