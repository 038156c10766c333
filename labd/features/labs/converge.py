"""From what a lab is to what it shall be. Level-triggered: doing it twice changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from labd.core.adapters import Adapters
from labd.core.deps import blockers, hopeless
from labd.core.gather import gather_all, wait_all
from labd.core.snapshot import LabSnapshot, SnapshotLoader
from labd.core.state_writer import StateWriter
from labd.core.taps import close_taps
from labd.features.labs.diff import needs_new_ports
from labd.features.labs.hotplug import needs_replacing
from labd.features.labs.live import LiveChanges, Target, nic_names
from labd.features.labs.readiness import ReadinessKeeper
from labd.features.labs.runner import Launch, NodeRunner
from labd.features.labs.teardown import Teardown
from labd.features.links import LinkService
from labd.features.publish import Publications
from labd.features.serving import Serving
from labd.model.errors import GuestFailed, NodeGone
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef
from labd.model.records import LabRecord, NodeRecord, OperationRecord, Wanted
from labd.model.request_kinds import UpRequest
from labd.model.specs import LabSpec, NodeSpec
from labd.model.states import NODE_ALIVE, NodeState

log = logging.getLogger(__name__)

_READY = {NodeState.READY, NodeState.PAUSED}
_OVER = {NodeState.CRASHED, NodeState.PANICKED, NodeState.STOPPED}


class Converger:
    """Brings labs up, and changes those that are."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        runner: NodeRunner,
        readiness: ReadinessKeeper,
        publications: Publications,
        serving: Serving,
        links: LinkService,
        loader: SnapshotLoader,
        teardown: Teardown,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._runner = runner
        self._readiness = readiness
        self._publications = publications
        self._serving = serving
        self._links = links
        self._loader = loader
        self._teardown = teardown
        self._live = LiveChanges(adapters, state_writer, runner)

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
        snapshot = await self._loader.snapshot(name)
        await self.prepare_ground(snapshot, operation)
        due = [
            node
            for node in snapshot.nodes.values()
            if node.name in snapshot.sized
            and (only is None or node.name in only)
            and node.wanted is Wanted.RUNNING
            and node.state not in NODE_ALIVE
        ]
        taps = await self._adapters.networks.open_taps(snapshot.network, [node.key for node in due])
        starts: dict[str, asyncio.Task[None]] = {}
        try:
            await self._links.apply_links(name, fresh=True)
            for node in due:
                task = asyncio.create_task(self._start(snapshot, node, taps, starts, operation))
                starts[node.name] = task
                # Who depends on the node looks again.
                task.add_done_callback(lambda _: self._state_writer.wake(name))
            await wait_all([*starts.values(), *self._await_running(snapshot, operation, only)])
        finally:
            close_taps(taps)
        await self._state_writer.settle(name, operation.id)

    async def prepare_ground(self, snapshot: LabSnapshot, operation: OperationRecord) -> None:
        """Make networks and published ports, as far as they are not there."""
        await self._make_networks(snapshot, operation)
        await self._publications.sync(snapshot.lab, operation.id)

    async def _finish_stops(self, name: str, operation: OperationRecord) -> None:
        """End what an earlier operation began to stop and could not."""
        nodes = await self._adapters.inventory.nodes(name)
        await gather_all(
            self._runner.stop(NodeRef(name, node.name), operation.id, force=True)
            for node in nodes
            if node.state is NodeState.STOPPING
        )

    def _await_running(
        self, snapshot: LabSnapshot, operation: OperationRecord, only: Collection[str] | None
    ) -> list[asyncio.Task[NodeState | None]]:
        """Wait too for nodes that run already and are not ready yet."""
        tasks = []
        for node in snapshot.nodes.values():
            if node.state is not NodeState.RUNNING or node.name not in snapshot.sized:
                continue
            if only is not None and node.name not in only:
                continue
            ref, sized = NodeRef(node.lab, node.name), snapshot.sized[node.name]
            if not self._readiness.watching(node.key):
                self._readiness.watch(
                    ref, node.key, snapshot.network.namespace, sized.node, sized.ready, operation.id
                )
            tasks.append(asyncio.create_task(self._ready(ref, node.key)))
        return tasks

    async def _make_networks(self, snapshot: LabSnapshot, operation: OperationRecord) -> None:
        there = set(await self._adapters.networks.bridges(snapshot.network.namespace))
        await self._adapters.networks.apply(snapshot.network)
        await self._adapters.uplinks.apply(snapshot.network)
        await self._serving.apply(snapshot.network)
        new = [bridge for bridge in snapshot.network.bridges if bridge.bridge not in there]
        if not new:
            return
        async with self._adapters.inventory.transaction() as tx:
            for bridge in new:
                await tx.emit(
                    EventDraft(
                        type=EventType.NETWORK_UP,
                        lab=snapshot.lab.name,
                        subject=bridge.network,
                        operation=operation.id,
                        data={"bridge": bridge.bridge, "namespace": snapshot.network.namespace},
                    )
                )

    async def _start(
        self,
        snapshot: LabSnapshot,
        node: NodeRecord,
        taps: dict[str, dict[str, int]],
        starts: Mapping[str, asyncio.Task[None]],
        operation: OperationRecord,
    ) -> None:
        ref = NodeRef(node.lab, node.name)
        sized = snapshot.sized[node.name]
        await self._await_dependencies(snapshot.lab.name, sized.node, starts)
        # Memory, vCPUs and media hardly change how long a boot keeps a CPU busy, and labs of one
        # image that differ in them are many. Where they do, the next slow one makes all slow.
        alike = (sized.image.digest, sized.node.accel, sized.ready)
        async with self._adapters.booting.take(snapshot.lab.name, alike) as boot:
            choice = await self._adapters.choose_accel(sized.node.kind, sized.node.accel)
            machine = self._loader.machine(snapshot, node, kvm=choice.kvm, cpu=choice.cpu)
            launch = Launch(
                ref=ref,
                namespace=snapshot.network.namespace,
                sized=sized,
                machine=machine,
                taps=taps,
                starts=node.starts + 1,
                seed=self._loader.seed(snapshot, node),
            )
            await self._runner.start(launch, operation.id)
            boot.ready = await self._ready(ref, node.key) is NodeState.READY

    async def _ready(self, ref: NodeRef, key: str) -> NodeState | None:
        """Wait for a node to be ready, or to end; return its state, None when it is gone.

        The watch of its readiness may be begun anew meanwhile (it hung for a while, say), so this
        follows what is written, not one task.

        Raises:
            GuestFailed: It ended, or was not ready in time.
        """
        while True:
            changed = self._state_writer.changed(ref.lab)
            node = await self._adapters.inventory.node(ref.lab, ref.node)
            if node is None:
                return None
            if node.state in _READY:
                return node.state
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
            changed = self._state_writer.changed(lab)
            nodes = await self._adapters.inventory.nodes(lab)
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
        lab = await self._state_writer.lab(name)
        if lab.previous is not None:
            await self._stop_replaced(lab, lab.previous, operation)
        await self.bring_up(name, operation, only)
        await self._change_running(name, operation)
        # Without an edit the links of a node are as its start made them and as `LinkService.set`
        # changed them since: to look at each again would cost every `up` of a big lab its time.
        if lab.previous is not None or self._links.owes(name):
            await self._links.sync(name)
        # Without an edit `bring_up` has just made the networks of this very spec, and there is no
        # old one: to do it all again took 11 ms of CPU time of each `up`, and a commit.
        changed = lab.previous is not None
        await self._teardown.remove_left_out(name, operation, networks=changed)
        if changed:
            await self._state_writer.forget_previous(name)

    async def _change_running(self, name: str, operation: OperationRecord) -> None:
        """Plug and unplug what differs between the running machines and the spec."""
        snapshot = await self._loader.snapshot(name)
        old = (
            {node.name: node for node in snapshot.lab.previous.nodes}
            if snapshot.lab.previous
            else {}
        )
        await gather_all(
            self._live.apply(
                Target(
                    node=node,
                    sized=snapshot.sized[node.name],
                    network=snapshot.network,
                    then=self._loader.machine(
                        snapshot, node, kvm=node.machine.kvm, cpu=node.machine.cpu
                    ),
                    nic_names=nic_names(old.get(node.name), snapshot.sized[node.name].node),
                    operation=operation.id,
                )
            )
            for node in snapshot.nodes.values()
            if node.state in NODE_ALIVE and node.name in snapshot.sized and node.machine is not None
        )

    async def _stop_replaced(
        self, lab: LabRecord, previous: LabSpec, operation: OperationRecord
    ) -> None:
        old = {node.name: node for node in previous.nodes}
        before = {net.name: net for net in previous.networks}
        changed = {n.name for n in lab.spec.networks if needs_new_ports(before.get(n.name, n), n)}
        sized = await self._loader.size(lab.spec)
        await gather_all(
            self._runner.stop(
                NodeRef(lab.name, node.name),
                operation.id,
                force=isinstance(operation.request, UpRequest) and operation.request.force,
            )
            for node in lab.spec.nodes
            if node.name in old
            and (
                needs_replacing(old[node.name], node, iso=sized[node.name].iso)
                or changed.intersection(nic.network for nic in node.nics)
            )
        )
