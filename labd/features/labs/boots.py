"""Nodes that run again on their own account: they are watched until they are ready."""

from __future__ import annotations

import logging

from labd.core.adapters import Adapters
from labd.core.resolve import size_node
from labd.core.state_writer import StateWriter
from labd.features.labs.readiness import ReadinessKeeper, is_immediate
from labd.features.labs.watch import Watcher
from labd.model.errors import LabdError
from labd.model.names import NodeRef
from labd.model.states import NodeState

log = logging.getLogger(__name__)


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
