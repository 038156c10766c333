"""Bring running machines in line with an edited spec: NICs, disks and CDs, one step after another.

Each step is written, with its event, as soon as QEMU has done it; a daemon that dies in between
leaves at most one step that is done and not written, and doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from labd.core.adapters import Adapters
from labd.core.resolve import Sized
from labd.core.state_writer import StateWriter
from labd.features.labs.hotplug import Steps, live_steps
from labd.features.labs.runner import NodeRunner
from labd.model.errors import IllegalTransition
from labd.model.events import EventDraft, EventType
from labd.model.machine import Disk, MachineSpec, Nic
from labd.model.names import NodeRef
from labd.model.network import LabNetworkPlan
from labd.model.records import NodeRecord
from labd.model.slots import numbered
from labd.model.specs import NodeSpec
from labd.model.states import NodeState

_T = EventType
_Device = TypeVar("_Device", Disk, Nic)
_HEARS = {NodeState.RUNNING, NodeState.READY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running node, and what it shall be.

    Attributes:
        then: Its machine, as a start would make it now.
        nic_names: `Nic.id` -> name; see `nic_names`.
    """

    node: NodeRecord
    sized: Sized
    network: LabNetworkPlan
    then: MachineSpec
    nic_names: Mapping[str, str]
    operation: str


class LiveChanges:
    """Plugs and unplugs."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter, runner: NodeRunner) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._runner = runner

    async def apply(self, target: Target) -> None:
        """Do what is left to do to one machine.

        Raises:
            IllegalTransition: A device shall go, and the guest is in no state to let go of it.
            GuestFailed, QmpRefused, NodeGone, NodeUnresponsive, NetworkFailed, StorageFailed: What
                was done before stays, and is written.
        """
        now = target.node.machine
        if now is None:
            return
        steps = live_steps(now, target.then)
        if not steps:
            return
        ref = NodeRef(target.node.lab, target.node.name)
        if steps.asks_guest and target.node.state not in _HEARS:
            raise IllegalTransition(
                str(ref), str(target.node.state), sorted(map(str, _HEARS)), "detach a device of"
            )
        await self._runner.make_disks(target.then, target.sized)
        await _Session(self._adapters, self._state_writer, ref, target, now).run(steps)


class _Session:
    """The steps of one machine; `now` is what it has at each moment."""

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        ref: NodeRef,
        target: Target,
        now: MachineSpec,
    ) -> None:
        self._adapters = adapters
        self._devices = adapters.nodes.devices(now)
        self._state_writer = state_writer
        self._ref = ref
        self._target = target
        self._now = now

    async def run(self, steps: Steps) -> None:
        """Do all steps in order."""
        for nic in steps.unplug_nics:
            nics = tuple(item for item in self._now.nics if item != nic)
            await self._devices.unplug_nic(self._now, nic)
            await self._note({"nics": nics}, _T.NODE_DEVICE_DETACHED, self._told(nic))
        for disk in steps.unplug_disks:
            disks = tuple(item for item in self._now.disks if item != disk)
            await self._devices.unplug_disk(self._now, disk)
            await self._note({"disks": disks}, _T.NODE_DEVICE_DETACHED, self._told(disk))
        for disk in steps.plug_disks:
            disks = _with(self._now.disks, disk, self._target.then.disks)
            await self._devices.plug_disk(replace(self._now, disks=disks), disk)
            await self._note({"disks": disks}, _T.NODE_DEVICE_ATTACHED, self._told(disk))
        await self._plug_nics(steps.plug_nics)
        if steps.medium is not None:
            await self._change_medium(steps.medium)

    async def _plug_nics(self, nics: tuple[Nic, ...]) -> None:
        for nic in nics:
            then = _with(self._now.nics, nic, self._target.then.nics)
            machine = replace(self._now, nics=then)
            await self._devices.plug_nic(machine, nic, partial(self._open_tap, nic))
            await self._note({"nics": then}, _T.NODE_DEVICE_ATTACHED, self._told(nic))

    async def _open_tap(self, nic: Nic) -> int:
        plan, key = self._target.network, self._now.key
        ports = tuple(port for port in plan.ports if port.key == key and port.nic == nic.id)
        taps = await self._adapters.networks.open_taps(replace(plan, ports=ports), [key])
        return taps[key][nic.id]

    async def _change_medium(self, drive: Disk) -> None:
        disks = tuple(drive if item.id == drive.id else item for item in self._now.disks)
        await self._devices.change_medium(self._now, drive)
        medium = self._target.sized.medium
        data = {"image": medium.name if medium else ""}
        await self._note({"disks": disks}, _T.NODE_MEDIUM_CHANGED, data)

    def _told(self, device: Disk | Nic) -> dict[str, object]:
        if isinstance(device, Disk):
            return {"kind": "disk", "name": device.serial}
        return {"kind": "nic", "name": self._target.nic_names.get(device.id, device.id)}

    async def _note(
        self, changes: dict[str, Any], kind: EventType, data: Mapping[str, object]
    ) -> None:
        self._now = replace(self._now, **changes)
        draft = EventDraft(
            type=kind,
            lab=self._ref.lab,
            node=self._ref.node,
            operation=self._target.operation,
            data=data,
        )
        await self._state_writer.note_machine(self._ref, self._now, draft)


def _with(now: Sequence[_Device], more: _Device, then: Sequence[_Device]) -> tuple[_Device, ...]:
    """Return what there is now and one more, in the order of what there shall be."""
    have: dict[str, _Device] = {item.id: item for item in now}
    have[more.id] = more
    order = {item.id: at for at, item in enumerate(then)}
    return tuple(sorted(have.values(), key=lambda item: order.get(item.id, len(order))))


def nic_names(*specs: NodeSpec | None) -> dict[str, str]:
    """Return `Nic.id` -> name in the specs; the later ones win."""
    return {
        f"n{slot}": nic.name
        for spec in specs
        if spec is not None
        for slot, nic in numbered(spec.nics)
    }
