"""Looks at what nodes take of the host."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import reduce

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.features.memory import MemoryGuard
from labd.features.usage.views import Usage
from labd.host.threads import quick
from labd.model.errors import NetworkFailed
from labd.model.records import LabRecord, NodeRecord
from labd.model.states import NODE_ALIVE
from labd.model.usage import HostUsage, NodeUsage, PortUsage


class UsageService:
    """Reads /proc and the kernel's counters."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter, guard: MemoryGuard) -> None:
        self._adapters = adapters
        self._guard = guard
        self._state_writer = state_writer

    async def look(self, lab: str = "") -> Usage:
        """Return what the nodes of a lab, or of all, have taken so far."""
        labs = [await self._state_writer.lab(lab)] if lab else await self._adapters.inventory.labs()
        found: list[NodeUsage] = []
        for record in labs:
            nodes = [
                node
                for node in await self._adapters.inventory.nodes(record.name)
                if node.state in NODE_ALIVE and node.process is not None
            ]
            if nodes:
                counters = await self._counters(record, nodes)
                found += [
                    usage
                    for node in nodes
                    if (usage := await self._node(node, counters)) is not None
                ]
        return Usage(
            time=self._adapters.clock(),
            clock=time.monotonic(),
            host=HostUsage(
                cpus=len(os.sched_getaffinity(0)),
                memory=self._adapters.memory_total,
                memory_available=self._adapters.memory_available(),
                disk_available=await quick(self._adapters.disk_available),
                memory_low=self._guard.low,
            ),
            nodes=found,
        )

    async def _node(self, node: NodeRecord, counters: Mapping[str, PortUsage]) -> NodeUsage | None:
        if node.process is None or node.machine is None:
            return None
        process = await quick(self._adapters.process_usage, node.process.pid)
        if process is None:
            return None
        return NodeUsage(
            lab=node.lab,
            node=node.name,
            state=str(node.state),
            vcpus=node.machine.vcpus,
            memory=node.machine.memory,
            process=process,
            ports=counters.get(node.key, PortUsage()),
        )

    async def _counters(self, lab: LabRecord, nodes: list[NodeRecord]) -> Mapping[str, PortUsage]:
        """Return machine key -> the sum of its ports."""
        keys = {node.name: node.key for node in nodes}
        plan = self._adapters.plan_network(lab.spec, lab.key, keys)
        try:
            links = await self._adapters.counters.read(plan.namespace)
        except NetworkFailed:
            return {}  # it is on its way out
        ports: dict[str, list[PortUsage]] = defaultdict(list)
        for port in plan.ports:
            if port.tap in links:
                ports[port.key].append(links[port.tap])
        return {key: reduce(PortUsage.__add__, found) for key, found in ports.items()}
