"""Captures: which interface a name means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.drivers.network.port import PacketCapture
from labd.features.activity import ActivityService
from labd.model.activity import Source
from labd.model.errors import Conflict, IllegalTransition, NotFound
from labd.model.names import NodeRef, did_you_mean
from labd.model.records import LabRecord
from labd.model.slots import numbered
from labd.model.states import NODE_ALIVE


class CaptureService:
    """Captures packets; each capture ends with its context."""

    def __init__(
        self, adapters: Adapters, state_writer: StateWriter, activity: ActivityService
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._activity = activity

    @asynccontextmanager
    async def open(
        self, lab: str, target: str, *, filter: str = "", count: int = 0
    ) -> AsyncIterator[PacketCapture]:
        """Capture at a link, a network, or a NIC (`NODE/NIC`).

        Raises:
            NotFound: The lab has no such thing.
            IllegalTransition, Conflict: It is down at present.
            InputError: The filter is wrong.
        """
        record = await self._state_writer.lab(lab)
        device = await self._device(record, target)
        namespace = self._adapters.namespace(record)
        name = f"{lab}/{target}"
        capture = await self._adapters.captures.open(namespace, device, name, filter, count)
        self._activity.touch(lab, Source.CAPTURE)
        try:
            yield capture
        finally:
            capture.close()

    async def _device(self, lab: LabRecord, target: str) -> str:
        nodes = {node.name: node for node in await self._adapters.inventory.nodes(lab.name)}
        plan = self._adapters.network_plan(lab, nodes)
        if "/" in target:
            return await self._tap(lab, target)
        bridges = {bridge.network: bridge.bridge for bridge in plan.bridges}
        if target not in bridges:
            near = did_you_mean(target, bridges) or f"; there are {', '.join(bridges) or 'none'}"
            raise NotFound(f"there is no link or network {target[:40]}{near}")
        if bridges[target] not in await self._adapters.networks.bridges(plan.namespace):
            raise Conflict(
                f"network {target} of lab {lab.name} is down; start the lab first: "
                f"`lab start {lab.name}`"
            )
        return bridges[target]

    async def _tap(self, lab: LabRecord, target: str) -> str:
        name, _, nic = target.partition("/")
        spec = next((node for node in lab.spec.nodes if node.name == name), None)
        slots = {item.name: slot for slot, item in numbered(spec.nics)} if spec else {}
        if nic not in slots:
            names = [f"{n.name}/{i.name}" for n in lab.spec.nodes for i in n.nics]
            raise NotFound(f"there is no NIC {target[:80]}{did_you_mean(target, names)}")
        ref = NodeRef(lab.name, name)
        node = await self._state_writer.node(ref)
        if node.state not in NODE_ALIVE:
            required = sorted(map(str, NODE_ALIVE))
            raise IllegalTransition(str(ref), str(node.state), required, "capture at")
        plan = self._adapters.network_plan(lab, {name: node})
        return next(port.tap for port in plan.ports if port.nic == f"n{slots[nic]}")
