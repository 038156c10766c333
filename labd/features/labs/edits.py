"""Edits of a running lab: a new spec is computed, checked and written, and an operation follows."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.core.resolve import Sized
from labd.core.state_writer import StateWriter
from labd.features.labs.disk_sizes import Ground, look_at
from labd.features.labs.edit_views import DiskView, NewNode
from labd.features.labs.hotplug import needs_replacing, obstacle
from labd.features.labs.service import Labs
from labd.inventory.port import Transaction
from labd.model.errors import Conflict, InputError, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.names import NodeRef, check_name, did_you_mean, stable_mac
from labd.model.records import LabRecord, OperationRecord, Wanted
from labd.model.request_kinds import EditRequest, WantedBefore
from labd.model.requests import Request
from labd.model.slots import pin
from labd.model.specs import DiskBus, DiskSpec, LabSpec, NicSpec, NodeSpec
from labd.model.states import NODE_ALIVE, LabState
from labd.model.units import MIB, TIB, format_size

MAX_DISKS: Final = 12
MAX_NODES: Final = 500
_DISK_NAME = 20  # characters of a serial number
_SECTOR = 512

_Edit = Callable[[LabSpec], LabSpec]


class Edits:
    """Edits a lab's spec; each is an operation, and the next `up` with a template undoes it.

    What runs keeps running; a running machine that cannot take the change is a `Conflict`.
    """

    def __init__(
        self,
        adapters: Adapters,
        state_writer: StateWriter,
        operations: Operations,
        labs: Labs,
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._operations = operations
        self._labs = labs

    # disks and CDs

    async def disks(self, ref: NodeRef) -> Sequence[DiskView]:
        """Return the drives of a node."""
        spec, sized = await self._node(ref)
        node = await self._state_writer.node(ref)
        alive = node.state in NODE_ALIVE and node.machine is not None
        there = {disk.id for disk in node.machine.disks} if alive and node.machine else set()
        serials = {disk.serial for disk in node.machine.disks} if alive and node.machine else set()
        found = []
        if not sized.iso and (sized.image.virtual_size or sized.disk):
            found.append(
                DiskView(
                    name="root",
                    kind="root",
                    bus=str(spec.disk_bus),
                    size=sized.disk or sized.image.virtual_size or None,
                    image=sized.image.name if sized.image.virtual_size else "",
                    attached="root" in there,
                )
            )
        if sized.has_drive:
            found.append(
                DiskView(
                    name="cdrom",
                    kind="cdrom",
                    bus=str(DiskBus.IDE),
                    size=sized.medium.virtual_size if sized.medium else None,
                    image=sized.medium.name if sized.medium else "",
                    attached="cd0" in there,
                )
            )
        found += [
            DiskView(
                name=disk.name,
                kind="disk",
                bus=str(disk.bus),
                size=disk.size,
                image="",
                attached=disk.name in serials,
            )
            for disk in spec.disks
        ]
        return found

    async def attach_disk(
        self, ref: NodeRef, name: str, size: int, bus: DiskBus | None
    ) -> OperationRecord:
        """Give a node one more disk of `size` bytes; on the bus of its disks when none is told."""
        check_name(name, "disk")
        if name == "root" or len(name) > _DISK_NAME:
            raise InputError(
                f"a disk cannot be called {name}: choose another name, of at most {_DISK_NAME} "
                "characters"
            )
        if not MIB <= size <= 64 * TIB or size % _SECTOR:
            raise InputError(
                f"a disk must have 1 MiB to 64 TiB, and a multiple of {_SECTOR} bytes: not {size}"
            )
        node = await self._state_writer.node(ref)
        has = (await self._adapters.storage.sizes(node.key)).get(f"disk-{name}.qcow2")

        def edit(old: NodeSpec) -> NodeSpec:
            if any(disk.name == name for disk in old.disks):
                raise Conflict(f"node {ref} has a disk {name} already; `lab disk ls {ref}`")
            if len(old.disks) >= MAX_DISKS:
                raise InputError(f"node {ref} has {MAX_DISKS} disks, and can have no more")
            if has not in (None, size):
                raise InputError(
                    f"disk {name} of {ref} was kept, and has {format_size(has or 0)}: give that "
                    "--size to have it again, or choose another name"
                )
            disk = DiskSpec(name=name, size=size, bus=bus or old.disk_bus)
            return replace(old, disks=(*old.disks, disk))

        return await self._edit_node(ref, edit)

    async def detach_disk(self, ref: NodeRef, name: str) -> OperationRecord:
        """Take a disk from a node; its data is kept until the node is removed."""
        node = await self._state_writer.node(ref)
        for disk in node.machine.disks if node.machine is not None else ():
            if disk.serial == name and disk.id != "root" and disk.backing:
                raise Conflict(
                    f"disk {name} of {ref} stands on a checkpoint, and would not be found again "
                    f"when it is attached; detach it in a lab without checkpoints"
                )

        def edit(old: NodeSpec) -> NodeSpec:
            if name == "root":
                raise InputError(f"the root disk of {ref} goes only with its node")
            names = [disk.name for disk in old.disks]
            if name not in names:
                raise NotFound(f"node {ref} has no disk {name}{did_you_mean(name, names)}")
            return replace(old, disks=tuple(disk for disk in old.disks if disk.name != name))

        return await self._edit_node(ref, edit)

    async def set_cdrom(self, ref: NodeRef, image: str) -> OperationRecord:
        """Put an ISO image into the CD-ROM drive of a node; an empty name ejects."""
        _, sized = await self._node(ref)
        if not sized.has_drive:
            raise Conflict(
                f"node {ref} has no CD-ROM drive; write `cdrom: empty` for it in the template, "
                "and `lab up` again"
            )
        return await self._edit_node(ref, lambda old: replace(old, cdrom=image))

    # nodes

    async def add_node(self, lab: str, new: NewNode) -> OperationRecord:
        """Add a node to a lab, and start it if the lab runs."""
        check_name(new.name, "node")

        def edit(old: LabSpec) -> LabSpec:
            if any(node.name == new.name for node in old.nodes):
                raise Conflict(f"lab {lab} has a node {new.name} already; choose another name")
            if len(old.nodes) >= MAX_NODES:
                raise InputError(f"lab {lab} has {MAX_NODES} nodes, and can have no more")
            return replace(old, nodes=(*old.nodes, _node_spec(old, new)))

        return await self._edit(lab, edit, starts=(new.name,))

    async def remove_node(self, ref: NodeRef) -> OperationRecord:
        """Remove a node with its disks."""

        def edit(old: LabSpec) -> LabSpec:
            _find(old, ref)
            needy = [
                node.name
                for node in old.nodes
                if any(need.node == ref.node for need in node.depends_on)
            ]
            if needy:
                raise Conflict(
                    f"node {ref} is waited for by {', '.join(needy)}: remove that first, or take "
                    "depends_on out of the template and `lab up` again"
                )
            if len(old.nodes) == 1:
                raise Conflict(f"{ref} is the last node: remove the lab, `lab destroy {ref.lab}`")
            left = tuple(node for node in old.nodes if node.name != ref.node)
            return replace(old, nodes=left)

        return await self._edit(ref.lab, edit)

    # the way of all

    async def _node(self, ref: NodeRef) -> tuple[NodeSpec, Sized]:
        lab = await self._state_writer.lab(ref.lab)
        spec = _find(lab.spec, ref)
        return spec, (await self._labs.size(replace(lab.spec, nodes=(spec,))))[ref.node]

    async def _edit_node(
        self, ref: NodeRef, edit: Callable[[NodeSpec], NodeSpec]
    ) -> OperationRecord:
        def whole(old: LabSpec) -> LabSpec:
            _find(old, ref)
            return replace(
                old,
                nodes=tuple(edit(node) if node.name == ref.node else node for node in old.nodes),
            )

        return await self._edit(ref.lab, whole)

    async def _edit(self, name: str, edit: _Edit, starts: Sequence[str] = ()) -> OperationRecord:
        self._operations.require_free(name)
        lab = await self._state_writer.lab(name)
        sized = await self._labs.check(name, edit(lab.spec))
        await self._require_bearable(lab, pin(lab.spec, edit(lab.spec)), sized)
        ground = Ground()

        async def look() -> None:
            nonlocal ground
            if starts:
                ground = await look_at(self._adapters, name)

        async def intent(tx: Transaction, operation: OperationRecord) -> Request:
            return await self._write(tx, operation, edit, starts, ground)

        request = EditRequest(starts=tuple(starts))
        work = self._operations.work_of(request.kind)
        return await self._operations.begin(name, request, work, intent, look)

    async def _require_bearable(
        self, lab: LabRecord, new: LabSpec, sized: Mapping[str, Sized]
    ) -> None:
        """Raise Conflict unless every machine that runs can take the edit.

        Raises:
            Conflict: One cannot.
        """
        old = {node.name: node for node in lab.spec.nodes}
        states = {node.name: node.state for node in await self._adapters.inventory.nodes(lab.name)}
        for node in new.nodes:
            before, iso = old.get(node.name), sized[node.name].iso
            if before is None or states.get(node.name) not in NODE_ALIVE:
                continue
            if needs_replacing(before, node, iso=iso):
                ref = f"{lab.name}/{node.name}"
                raise Conflict(
                    f"node {ref} cannot take that while it runs: "
                    f"{obstacle(before, node, iso=iso)}; stop it first: `lab stop {ref}`"
                )

    async def _write(
        self,
        tx: Transaction,
        operation: OperationRecord,
        edit: _Edit,
        starts: Sequence[str],
        ground: Ground,
    ) -> EditRequest:
        """Admit, and write what shall be. All is read here, where nothing else can move."""
        name = operation.lab
        lab = await self._state_writer.lab(name)
        nodes = await self._adapters.inventory.nodes(name)
        spec = pin(lab.spec, edit(lab.spec))
        sized = await self._labs.size(spec)
        runs = lab.wanted is Wanted.RUNNING
        due = {item: sized[item].memory for item in starts} if runs else {}
        await self._labs.admit(name, due, ground.free)
        was = WantedBefore(lab=lab.wanted, nodes={node.name: node.wanted for node in nodes})
        alive = sorted(node.name for node in nodes if node.state in NODE_ALIVE)
        lab = replace(lab, spec=spec, previous=lab.previous or lab.spec)
        await tx.put_lab(lab)
        await tx.emit(
            EventDraft(
                type=EventType.LAB_CHANGED,
                lab=name,
                operation=operation.id,
                data={"template": spec.template},
            )
        )
        if due and lab.state is not LabState.STARTING:
            await self._state_writer.put_lab_state(tx, lab, LabState.STARTING, operation.id)
        for node in nodes:
            if node.name not in sized:
                await tx.put_node(replace(node, wanted=Wanted.DESTROYED))
        for node in await self._labs.new_nodes(name, spec, {node.name for node in nodes}):
            wanted = Wanted.RUNNING if runs else Wanted.STOPPED
            await tx.put_node(replace(node, wanted=wanted))
            await tx.emit(
                EventDraft(
                    type=EventType.NODE_CREATED, lab=name, node=node.name, operation=operation.id
                )
            )
        return EditRequest(before=tuple(alive), was=was, memory=due, starts=tuple(starts))


def _find(spec: LabSpec, ref: NodeRef) -> NodeSpec:
    for node in spec.nodes:
        if node.name == ref.node:
            return node
    names = [node.name for node in spec.nodes]
    raise NotFound(f"there is no node {ref}{did_you_mean(ref.node, names)}")


def _node_spec(lab: LabSpec, new: NewNode) -> NodeSpec:
    """Return the spec of a node that is added.

    Raises:
        InputError: It does not fit the lab.
    """
    if not new.image and not new.profile:
        raise InputError(f"node {new.name} needs an image or a profile: give --image")
    if new.memory is not None and not MIB <= new.memory <= 4 * TIB:
        raise InputError(f"node {new.name}: memory must be 1 MiB to 4 TiB")
    nics = tuple(
        _nic(lab, new.name, f"eth{index}", network, address)
        for index, (network, address) in enumerate(new.networks.items())
    )
    return NodeSpec(
        name=new.name,
        image=new.image,
        profile=new.profile,
        vcpus=new.vcpus,
        memory=new.memory,
        disk=new.disk,
        machine=new.machine,
        display=new.display,
        nics=nics,
    )


def _nic(lab: LabSpec, node: str, name: str, network: str, address: str) -> NicSpec:
    known = {item.name: item for item in lab.networks}
    if network not in known:
        raise InputError(
            f"node {node}: there is no network {network[:64]!r}{did_you_mean(network, known)}"
        )
    found = known[network]
    others = [(n.name, nic) for n in lab.nodes for nic in n.nics if nic.network == network]
    if found.link and len(others) > 1:
        raise InputError(f"node {node}: link {network} has two ends already; name a network")
    if address:
        try:
            interface = ipaddress.ip_interface(address)
        except ValueError:
            interface = None
        if interface is None or "/" not in address:
            raise InputError(
                f"node {node}: {address[:64]!r} is no address with its length; write it like "
                "10.0.1.9/24"
            )
        if found.subnet and interface.ip not in ipaddress.ip_network(found.subnet):
            raise InputError(
                f"node {node}: {address} is not in {found.subnet}, the subnet of {network}"
            )
        for other, nic in others:
            if any(ipaddress.ip_interface(text).ip == interface.ip for text in nic.addresses):
                raise InputError(f"node {node}: {interface.ip} is taken by {other}; choose another")
        address = str(interface)
    return NicSpec(
        name=name,
        network=network,
        mac=stable_mac(lab.template, node, name),
        addresses=(address,) if address else (),
    )
