"""When a guest is ready: by console, TCP port, agent or command. One task per node that waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from labd.core.adapters import Adapters
from labd.core.resolve import size_node
from labd.core.state_writer import StateWriter
from labd.features.labs.watch import Watcher
from labd.host.supervision import TaskState
from labd.model.errors import GuestFailed, LabdError, NodeGone, NodeUnresponsive
from labd.model.names import NodeRef
from labd.model.specs import NodeSpec, Readiness
from labd.model.states import NodeState


class BootWatcher:
    """Has the readiness of nodes watched that were reset, or booted by themselves."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        watcher: Watcher,
        readiness: ReadinessKeeper,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._watcher = watcher
        self._readiness = readiness

    async def run(self) -> None:
        """Watch nodes that run again on their own account until they are ready."""
        while True:
            for ref in await self._watcher.boots():
                with self._adapters.tasks.contained("boots"):  # the other nodes are watched on
                    try:
                        await self._watch_boot(ref)
                    except LabdError as error:
                        log.warning("node %s cannot be watched: %s", ref, error)

    async def _watch_boot(self, ref: NodeRef) -> None:
        lab, node = await self._state_writer.lab(ref.lab), await self._state_writer.node(ref)
        if node.state is not NodeState.RUNNING:
            return
        spec = next((spec for spec in lab.spec.nodes if spec.name == ref.node), None)
        if spec is None:
            return  # it is on its way out
        profiles = {p.name: p for p in await self._adapters.inventory.profiles()}
        images = {i.name: i for i in await self._adapters.inventory.images()}
        ready = size_node(spec, profiles, images).ready
        if is_immediate(ready, spec):
            others = set(NodeState) - {NodeState.RUNNING}
            await self._state_writer.move(ref, NodeState.READY, unless=others)
            return
        namespace = self._adapters.namespace(lab)
        self._readiness.watch(ref, node.key, namespace, spec, ready)


log = logging.getLogger(__name__)

_LONGEST = 3600.0  # seconds of one command; the node's own timeout is shorter
_POLL = 0.5  # seconds between two tries of what has no event
_STILL_BOOTING = (NodeState.STARTING, NodeState.RUNNING)


def is_immediate(ready: Readiness, node: NodeSpec) -> bool:
    """True if a node is ready as soon as its CPUs run."""
    waits = ready.console or ready.tcp_port or ready.agent or ready.command
    return not (waits or node.files or node.startup)


def describe(ready: Readiness) -> str:
    """Say in words what a node waits for."""
    if ready.console:
        return f"console pattern {ready.console!r}"
    if ready.tcp_port:
        return f"TCP port {ready.tcp_port}"
    return "guest agent" if ready.agent else f"command {' '.join(ready.command)!r}"


class ReadinessKeeper:
    """Moves nodes from `running` to `ready`, for operations, restarts and adopted nodes alike."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, LabdError] = {}

    def watch(
        self, ref: NodeRef, key: str, namespace: str, spec: NodeSpec, ready: Readiness, op: str = ""
    ) -> None:
        """Watch a node that runs until it is ready; an earlier watch of it is given up.

        The state `ready` is written when it is. When it is not in time, or its machine ends,
        `failure` tells so, and everybody who waits in the journal looks again.
        """
        self.forget(key)
        task = asyncio.create_task(
            self._watch(ref, key, namespace, spec, ready, op), name=f"ready {ref}"
        )
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._done(key, ref, done))

    def watching(self, key: str) -> bool:
        """True if a machine is watched at this moment."""
        return key in self._tasks

    def failure(self, key: str) -> LabdError | None:
        """Return why the last watch of a machine failed; None when it did not, or goes on.

        GuestFailed: it was not ready in time. NodeGone: its machine ended.
        """
        return self._failures.get(key)

    def forget(self, key: str) -> None:
        """Give up watching a machine."""
        self._failures.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def _done(self, key: str, ref: NodeRef, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is not task:
            return
        del self._tasks[key]
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.info("node %s did not become ready: %s", ref, error)
        if not isinstance(error, LabdError):
            self._adapters.tasks.note("readiness", error, TaskState.ENDED)
            error = GuestFailed(f"the readiness of node {ref} cannot be told: {error}")
        self._failures[key] = error
        self._state_writer.wake(ref.lab)

    async def _watch(
        self, ref: NodeRef, key: str, namespace: str, spec: NodeSpec, ready: Readiness, op: str
    ) -> None:
        missing = describe(ready)
        try:
            async with asyncio.timeout(ready.timeout):
                await self._wait(key, namespace, spec, ready)
                if spec.files or spec.startup:
                    missing = "guest agent that has written its files and run its startup commands"
                    await self._set_up(ref, key, spec)
                await self._state_writer.wait_node(ref, set(NodeState) - {NodeState.UNRESPONSIVE})
        except TimeoutError:
            reason = f"not ready after {ready.timeout:g} s: no {missing}"
            await self._state_writer.update(
                ref, reason=reason, unless=set(NodeState) - set(_STILL_BOOTING)
            )
            raise GuestFailed(f"node {ref} is {reason}", node=ref.node) from None
        await self._state_writer.move(
            ref,
            NodeState.READY,
            operation=op,
            unless=set(NodeState) - set(_STILL_BOOTING),
        )

    async def _wait(self, key: str, namespace: str, spec: NodeSpec, ready: Readiness) -> None:
        if ready.console:
            await self._adapters.nodes.consoles(key).wait_console(key, ready.console)
        elif ready.tcp_port:
            address = next(a for nic in spec.nics for a in nic.addresses).partition("/")[0]
            await self._until(
                key,
                lambda: self._adapters.networks.probe_tcp(namespace, address, ready.tcp_port, 1.0),
            )
        elif ready.agent:
            await self._until(key, lambda: self._adapters.nodes.agents(key).agent_ping(key))
        elif ready.command:
            await self._until(key, lambda: self._command(key, ready))

    async def _set_up(self, ref: NodeRef, key: str, spec: NodeSpec) -> None:
        """Write files and run commands by the guest agent, each time that a guest has booted.

        Raises:
            GuestFailed: One could not be, or ended with another status than 0.
        """
        await self._until(key, lambda: self._adapters.nodes.agents(key).agent_ping(key))
        for file in spec.files:
            await self._adapters.nodes.guest_files(key).write(
                key, file.path, _once(file.content.encode())
            )
            if file.mode:
                await self._must(ref, key, ("chmod", file.mode, file.path))
        for argv in spec.startup:
            await self._must(ref, key, argv)

    async def _must(self, ref: NodeRef, key: str, argv: Sequence[str]) -> None:
        result = await self._adapters.nodes.agents(key).agent_exec(key, argv, _LONGEST)
        if result.status != 0:
            said = result.stderr.decode(errors="replace").strip().splitlines()
            raise GuestFailed(
                f"startup of node {ref}: {argv[0]!r} ended with {result.status}"
                + (f": {said[-1][:200]}" if said else ""),
                node=ref.node,
            )

    async def _command(self, key: str, ready: Readiness) -> bool:
        try:
            result = await self._adapters.nodes.agents(key).agent_exec(
                key, ready.command, ready.timeout
            )
        except GuestFailed:
            return False  # the agent is not there yet
        return result.status == 0

    async def _until(self, key: str, probe: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                if await probe():
                    return
                await self._adapters.nodes.query(key)  # NodeGone ends the wait
            except NodeUnresponsive:
                log.debug("machine %s does not answer; its readiness is asked again", key)
            except NodeGone:
                raise
            await asyncio.sleep(_POLL)

    def close(self) -> None:
        """Give up every watch."""
        for key in list(self._tasks):
            self.forget(key)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
