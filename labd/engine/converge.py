"""From what a lab is to what it shall be. Level-triggered: doing it twice changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from labd.engine.deps import blockers, hopeless
from labd.engine.diff import needs_replacing
from labd.engine.journal import Journal
from labd.engine.readiness import ReadinessKeeper
from labd.engine.resolve import Sized, machine_of, size_node
from labd.engine.runner import Launch, NodeRunner
from labd.engine.world import World
from labd.model.errors import GuestFailed, LabdError
from labd.model.events import EventType, Happening
from labd.model.names import NodeRef
from labd.model.network import LabNetworkPlan
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.specs import Image, LabSpec, NodeSpec, Profile
from labd.model.states import NODE_ALIVE, LabState, NodeState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A lab as it stands at the begin of a step."""

    lab: LabRecord
    nodes: dict[str, NodeRecord]
    sized: dict[str, Sized]
    network: LabNetworkPlan


def first_failure(group: BaseExceptionGroup) -> BaseException:
    """Return the failure that a person should hear of: a LabdError before anything else."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, LabdError)), leaves[0])


async def all_of(jobs: Iterable[asyncio.Task[None] | asyncio.Future[None]]) -> None:
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
        self, world: World, journal: Journal, runner: NodeRunner, readiness: ReadinessKeeper
    ) -> None:
        self._world = world
        self._journal = journal
        self._runner = runner
        self._readiness = readiness

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
        )

    # up

    async def bring_up(self, name: str, operation: OperationRecord) -> None:
        """Make the networks, and start what should run and does not, by its dependencies.

        Raises:
            LabdError: The first failure; nodes that this call was starting are stopped again,
                those that run already stay.
        """
        scene = await self.scene(name)
        await self._make_networks(scene, operation)
        due = [
            node
            for node in scene.nodes.values()
            if node.name in scene.sized
            and node.wanted is Wanted.RUNNING
            and node.state not in NODE_ALIVE
        ]
        waiting = self._watch_running(scene, operation)
        taps = await self._world.networks.open_taps(scene.network, [node.key for node in due])
        try:
            jobs = [
                asyncio.create_task(self._start(scene, node, taps.pop(node.key, {}), operation))
                for node in due
            ]
            await all_of([*jobs, *waiting])
        finally:
            for fds in taps.values():
                for fd in fds.values():
                    os.close(fd)
        await self._journal.settle(name, operation.id)

    def _watch_running(self, scene: Scene, operation: OperationRecord) -> list[asyncio.Task[None]]:
        """Wait too for nodes that run already and are not ready yet."""
        return [
            self._readiness.watch(
                NodeRef(node.lab, node.name),
                node.key,
                scene.network.namespace,
                scene.sized[node.name].node,
                scene.sized[node.name].ready,
                operation.id,
            )
            for node in scene.nodes.values()
            if node.state is NodeState.RUNNING and node.name in scene.sized
        ]

    async def _make_networks(self, scene: Scene, operation: OperationRecord) -> None:
        there = set(await self._world.networks.bridges(scene.network.namespace))
        await self._world.networks.apply(scene.network)
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
        self, scene: Scene, node: NodeRecord, taps: Mapping[str, int], operation: OperationRecord
    ) -> None:
        ref = NodeRef(node.lab, node.name)
        sized = scene.sized[node.name]
        handed_over = False
        try:
            await self._await_dependencies(scene.lab.name, sized.node)
            async with self._world.booting:
                choice = await self._world.choose_accel(sized.node.accel)
                machine = machine_of(
                    scene.lab.spec,
                    scene.lab.name,
                    sized,
                    node,
                    folder=self._world.node_folder(node.key),
                    run=self._world.run / "n" / node.key,
                    files=self._world.images.files(sized.image),
                    kvm=choice.kvm,
                )
                handed_over = True
                ready = await self._runner.start(
                    Launch(
                        ref=ref,
                        namespace=scene.network.namespace,
                        sized=sized,
                        machine=machine,
                        taps=taps,
                        starts=node.starts + 1,
                    ),
                    operation.id,
                )
                if ready is not None:
                    await self._ready(ref, ready)
        finally:
            if not handed_over:
                for fd in taps.values():
                    os.close(fd)

    async def _ready(self, ref: NodeRef, ready: asyncio.Task[None]) -> None:
        """Wait for a node to be ready, or to end."""
        over = {
            NodeState.READY,
            NodeState.PAUSED,
            NodeState.CRASHED,
            NodeState.PANICKED,
            NodeState.STOPPED,
        }
        state = asyncio.create_task(self._journal.wait_node(ref, over))
        try:
            await asyncio.wait({state, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not ready.cancelled() and (error := ready.exception()):
                # An end of the machine is told by its state, which the watcher is writing.
                await asyncio.wait({state}, timeout=1.0)
                if not state.done():
                    raise error
            node = await state
        finally:
            state.cancel()
        if node is not None and node.state not in {NodeState.READY, NodeState.PAUSED}:
            why = f": {node.reason}" if node.reason else ""
            raise GuestFailed(
                f"node {ref} {node.state} before it was ready{why}; "
                f"`lab logs {ref}` shows its last words"
            )

    async def _await_dependencies(self, lab: str, spec: NodeSpec) -> None:
        while spec.depends_on:
            changed = self._journal.changed()
            nodes = await self._world.inventory.nodes(lab)
            states = {node.name: node.state for node in nodes}
            if lost := hopeless(spec, states):
                raise GuestFailed(
                    f"node {lab}/{spec.name} waits for {lost[0]}, which {states[lost[0]]}"
                )
            if not blockers(spec, states):
                return
            await changed.wait()

    # change

    async def apply(self, name: str, operation: OperationRecord) -> None:
        """Go from `lab.previous` to `lab.spec`: replace what differs, add, and last remove.

        Raises:
            LabdError: The first failure; `lab.previous` is still set.
        """
        lab = await self._journal.lab(name)
        if lab.previous is not None:
            await self._stop_replaced(lab, lab.previous, operation)
        await self.bring_up(name, operation)
        await self._remove_left_out(name, operation)
        lab = await self._journal.lab(name)
        if lab.previous is not None:
            async with self._world.inventory.transaction() as tx:
                await tx.put_lab(replace(lab, previous=None))

    async def _stop_replaced(
        self, lab: LabRecord, previous: LabSpec, operation: OperationRecord
    ) -> None:
        old = {node.name: node for node in previous.nodes}
        before = {net.name: net for net in previous.networks}
        changed = {n.name for n in lab.spec.networks if before.get(n.name, n) != n}
        stops = [
            self._runner.stop(NodeRef(lab.name, node.name), operation.id)
            for node in lab.spec.nodes
            if node.name in old
            and (
                needs_replacing(old[node.name], node)
                or changed.intersection(nic.network for nic in node.nics)
            )
        ]
        await asyncio.gather(*stops)

    async def _remove_left_out(self, name: str, operation: OperationRecord) -> None:
        lab = await self._journal.lab(name)
        kept = {node.name for node in lab.spec.nodes}
        gone = [n for n in await self._world.inventory.nodes(name) if n.name not in kept]
        await asyncio.gather(*(self._runner.erase(node, operation.id) for node in gone))
        if gone:
            async with self._world.inventory.transaction() as tx:
                for node in gone:
                    await tx.delete_node(name, node.name)
                    await tx.emit(_node_event(EventType.NODE_DESTROYED, node, operation))
        nodes = {node.name: node for node in await self._world.inventory.nodes(name)}
        await self._world.networks.apply(self._world.network_plan(lab, nodes))
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
        nodes = await self._world.inventory.nodes(name)
        await asyncio.gather(
            *(
                self._runner.stop(NodeRef(name, n.name), operation.id, force=force, grace=grace)
                for n in nodes
            )
        )
        await self._remove_networks(await self._journal.lab(name), operation)
        await self._journal.settle(name, operation.id)

    async def _remove_networks(self, lab: LabRecord, operation: OperationRecord) -> None:
        namespace = self._world.namespace(lab)
        there = set(await self._world.networks.bridges(namespace))
        await self._world.networks.remove(namespace)
        if there:
            await self._tell_networks_down(lab, [n.name for n in lab.spec.networks], operation)

    async def destroy(self, name: str, operation: OperationRecord) -> None:
        """Remove everything of a lab; its rows go last, so that it can be done again."""
        lab = await self._world.inventory.lab(name)
        if lab is None:
            return
        nodes = await self._world.inventory.nodes(name)
        await asyncio.gather(*(self._runner.erase(node, operation.id) for node in nodes))
        await self._remove_networks(lab, operation)
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
        await asyncio.gather(
            *(
                self._runner.stop(NodeRef(lab, name), operation.id, force=force, grace=grace)
                for name in names
            )
        )
        await self._journal.settle(lab, operation.id)

    async def undo_starts(self, name: str, before: set[str], operation: OperationRecord) -> None:
        """Stop the nodes that run and did not before; used when `up` of an old lab failed."""
        for node in await self._world.inventory.nodes(name):
            if node.state is not NodeState.STOPPED and node.name not in before:
                with suppress(LabdError):
                    await self._runner.stop(NodeRef(name, node.name), operation.id, force=True)


def _node_event(kind: EventType, node: NodeRecord, operation: OperationRecord) -> Happening:
    return Happening(
        type=kind,
        lab=node.lab,
        node=node.name,
        operation=operation.id,
        data={"from": str(node.state)},
    )
