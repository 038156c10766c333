"""Hold the kernel, the folders and the inventory against each other: `lab fsck`.

What is read is the truth of the kernel, the rows say what should be. A lab that an operation holds
is left out: it is on its way. `compare` is pure; `Fsck` gathers and repairs.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.core.ports import Traces
from labd.features.fsck import traces as fsck_traces
from labd.features.warm import pseudo_lab
from labd.host.evidence import entries, taps_of
from labd.host.threads import quick
from labd.model.differences import Difference, Mismatch, Sort, Trace
from labd.model.errors import LabdError
from labd.model.machine import FoundMachine
from labd.model.network import LabNetworkPlan
from labd.model.pools import MemberState
from labd.model.records import LabRecord, NodeRecord, by_lab
from labd.model.specs import LabSpec
from labd.model.states import NODE_ALIVE, NodeState

_M = Mismatch
# States in which a lab of this node must have its networks.
_USES_NETWORK = NODE_ALIVE - {NodeState.STOPPING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found on the host.

    Attributes:
        machines: QEMU processes of this root.
        taps: Process id -> names of the taps of which it holds a descriptor.
        bridges: Namespace of this root -> its bridges.
        disks: Keys of the machines that have disks.
        sockets: Names of the folders of sockets.
        keys: Lab keys that have an SSH key pair.
        servers: Names of the folders of dnsmasqs.
        images: Digests that the image store has files of.
        traces: Everything else that was found.
    """

    machines: Sequence[FoundMachine]
    taps: Mapping[int, Sequence[str]]
    bridges: Mapping[str, Collection[str]]
    disks: Collection[str]
    sockets: Collection[str]
    keys: Collection[str]
    servers: Collection[str] = ()
    images: Collection[str] = ()
    traces: Sequence[Trace] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the inventory says; labs that an operation holds are in `held`."""

    labs: Sequence[LabRecord]
    nodes: Sequence[NodeRecord]
    plans: Mapping[str, LabNetworkPlan]
    held: Collection[str]
    digests: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look came to.

    Attributes:
        differences: All that were found.
        rows: What they were held against.
        traces: Each with the port that found it, and that can remove it.
    """

    differences: Sequence[Difference]
    rows: Rows
    traces: Sequence[tuple[Traces, Trace]]


def compare(found: Evidence, rows: Rows) -> list[Difference]:
    """Return every difference. Pure."""
    return [
        *_processes(found, rows),
        *_networks(found, rows),
        *_folders(found, rows),
        *_traces(found, rows),
    ]


def _processes(found: Evidence, rows: Rows) -> Iterator[Difference]:
    known = {node.key: node for node in rows.nodes}
    for machine in found.machines:
        pid, node = machine.process.pid, known.get(machine.key)
        if node is not None and (node.process == machine.process or node.lab in rows.held):
            continue
        yield Difference(
            kind=_M.ORPHAN_PROCESS,
            name=str(pid),
            text=f"QEMU {pid} of machine {machine.key} belongs to no node",
            remedy="end it",
        )
    living = {machine.process for machine in found.machines}
    planned: dict[str, set[str]] = {}
    for plan in rows.plans.values():
        for port in plan.ports:
            planned.setdefault(port.key, set()).add(port.tap)
    for node in rows.nodes:
        if node.lab in rows.held or node.process is None or node.state not in NODE_ALIVE:
            continue
        name = f"{node.lab}/{node.name}"
        if node.process not in living:
            yield Difference(
                kind=_M.LOST_PROCESS,
                name=name,
                text=f"{name} is {node.state}, and its QEMU {node.process.pid} does not live; "
                f"`lab start {name}` starts it anew",
            )
        elif node.machine is not None:
            have, want = found.taps.get(node.process.pid, ()), len(node.machine.nics)
            if len(have) != want:
                yield Difference(
                    kind=_M.LOST_TAP,
                    name=name,
                    text=f"{name} has {want} NICs, and its QEMU holds {len(have)} taps; "
                    f"`lab restart {name}` makes them anew",
                )
            for tap in sorted(set(have) - planned.get(node.key, set())):
                yield Difference(
                    kind=_M.ORPHAN_TAP,
                    name=f"{name}/{tap}",
                    text=f"the QEMU of {name} holds tap {tap}, which is none of the node's; "
                    f"`lab restart {name}` starts it without",
                )


def _networks(found: Evidence, rows: Rows) -> Iterator[Difference]:
    wanted = {plan.namespace for plan in rows.plans.values()}
    foreign = {trace.name for trace in found.traces if trace.sort is Sort.FOREIGN}
    for namespace in sorted(found.bridges.keys() - wanted - foreign):
        yield Difference(
            kind=_M.ORPHAN_NAMESPACE,
            name=namespace,
            text=f"namespace {namespace} belongs to no lab",
            remedy="remove it",
        )
    in_use = {node.lab for node in rows.nodes if node.state in _USES_NETWORK}
    for lab in rows.labs:
        if lab.name in rows.held:
            continue
        plan, used = rows.plans[lab.name], lab.name in in_use
        if plan.namespace not in found.bridges:
            if used:
                yield Difference(
                    kind=_M.LOST_NAMESPACE,
                    name=plan.namespace,
                    text=f"lab {lab.name} runs without its namespace; `lab restart {lab.name}` "
                    "makes it anew",
                )
            continue
        there, want = set(found.bridges[plan.namespace]), {b.bridge for b in plan.bridges}
        for bridge in sorted(want - there if used else ()):
            yield Difference(
                kind=_M.LOST_NETWORK,
                name=f"{lab.name}/{bridge}",
                text=f"bridge {bridge} of lab {lab.name} is not there",
                remedy="make the networks of the lab as they should be",
            )
        for bridge in sorted(there - want):
            yield Difference(
                kind=_M.ORPHAN_NETWORK,
                name=f"{lab.name}/{bridge}",
                text=f"bridge {bridge} is in the namespace of lab {lab.name}, which has no such "
                "network",
                remedy="make the networks of the lab as they should be",
            )


def _folders(found: Evidence, rows: Rows) -> Iterator[Difference]:
    keys = {node.key for node in rows.nodes}
    labs = {lab.key for lab in rows.labs}
    for what, names, owners in (
        ("disks", found.disks, keys),
        ("sockets", found.sockets, keys),
        ("servers", found.servers, labs),
    ):
        for name in sorted(set(names) - owners):
            yield Difference(
                kind=_M.ORPHAN_FOLDER,
                name=f"{what}/{name}",
                text=f"the folder of {what} of {name} belongs to no node and no lab",
                remedy="remove it",
            )
    for key in sorted(set(found.keys) - labs):
        yield Difference(
            kind=_M.ORPHAN_KEYS,
            name=key,
            text=f"the SSH keys of {key} belong to no lab",
            remedy="remove them",
        )


def _traces(found: Evidence, rows: Rows) -> Iterator[Difference]:
    owners = {lab.key for lab in rows.labs} | {node.key for node in rows.nodes}
    # A daemon that starts a node has its taps in hand.
    traces = [t for t in found.traces if not (rows.held and t.sort is Sort.TAP)]
    yield from fsck_traces.orphans(traces, owners)
    nodes = by_lab(rows.nodes)
    yield from fsck_traces.lost(
        traces,
        [
            (lab, rows.plans[lab.name], nodes.get(lab.name, []))
            for lab in rows.labs
            if lab.name not in rows.held
        ],
    )
    if not rows.held:
        for digest in sorted(set(found.images) - set(rows.digests)):
            yield Difference(
                kind=_M.ORPHAN_IMAGE,
                name=digest,
                text=f"files of digest {digest} belong to no image; labd removes them when it is "
                "started again",
            )


class Check(Protocol):
    """Compares something else of the host with the rows, and repairs it."""

    async def __call__(self, *, repair: bool) -> Sequence[Difference]:
        """Return the differences; with `repair`, do what can be done about each first."""


class Fsck:
    """Gathers, compares and repairs; `more` are further checks."""

    def __init__(
        self, adapters: Adapters, operations: Operations, more: Sequence[Check] = ()
    ) -> None:
        self._adapters = adapters
        self._operations = operations
        self._more = more

    async def check(self, *, repair: bool) -> list[Difference]:
        """Return every difference; with `repair`, do what can be done about each first.

        A difference that could not be repaired is returned as it was, with the reason.
        """
        look = await self._look()
        differences = list(look.differences)
        if differences:
            # What goes or comes at this very moment is none: a difference is there twice.
            names = {(difference.kind, difference.name) for difference in differences}
            look = await self._look()
            differences = [item for item in look.differences if (item.kind, item.name) in names]
        differences += await self._images() + await self._database()
        if repair:
            differences = [await self._mend(difference, look) for difference in differences]
        for check in self._more:
            differences += await check(repair=repair)
        return differences

    async def _look(self) -> Look:
        # The rows are read last, so that nothing new is taken for an orphan.
        found = await self._gather()
        traces = [(source, t) for source in self._adapters.traces for t in await source.find()]
        rows = await self._rows()
        found = replace(found, traces=[trace for _, trace in traces])
        return Look(differences=compare(found, rows), rows=rows, traces=traces)

    async def _gather(self) -> Evidence:
        """Return everything but the traces."""
        adapters = self._adapters
        machines = await adapters.nodes.scan()
        pids = [machine.process.pid for machine in machines]
        namespaces = await adapters.networks.namespaces()
        return Evidence(
            machines=machines,
            taps=await quick(lambda: {pid: taps_of(pid) for pid in pids}),
            bridges={name: await adapters.networks.bridges(name) for name in namespaces},
            disks=await adapters.storage.machines(),
            sockets=await quick(entries, adapters.run / "n"),
            keys=await adapters.keys.all(),
            servers=await quick(entries, adapters.run / "d"),
            images=[
                name
                for name in await quick(entries, adapters.state / "images")
                if not name.startswith(".")
            ],
        )

    async def _rows(self) -> Rows:
        held = {operation.lab for operation in self._operations.running()}
        inventory = self._adapters.inventory
        labs, nodes = [*await inventory.labs()], [*await inventory.nodes()]
        specs = {record.key: record.spec for record in await inventory.checkpoints()}
        for member in await inventory.pool_members():
            spec = specs.get(member.checkpoint, LabSpec(template=""))
            labs.append(pseudo_lab(member, spec))
            nodes += member.nodes
            if member.state is not MemberState.READY:
                held.add(member.label)
        inside = {lab: {node.name: node for node in found} for lab, found in by_lab(nodes).items()}
        return Rows(
            labs=labs,
            nodes=nodes,
            plans={
                lab.name: self._adapters.network_plan(lab, inside.get(lab.name, {})) for lab in labs
            },
            digests=[image.digest.removeprefix("sha256:") for image in await inventory.images()],
            held=held | {operation.lab for operation in self._operations.running()},
        )

    async def _images(self) -> list[Difference]:
        found = []
        for image in await self._adapters.inventory.images():
            files = self._adapters.images.files(image).values()
            if not await quick(_all_there, files):
                found.append(
                    Difference(
                        kind=_M.LOST_IMAGE,
                        name=image.name,
                        text=f"image {image.name} has lost its files; remove it (`lab image rm "
                        f"{image.name}`) and import it again",
                    )
                )
        return found

    async def _database(self) -> list[Difference]:
        found = [
            Difference(
                kind=_M.DATABASE,
                name="inventory",
                text=f"SQLite says of the inventory: {problem}; put a backup in its place",
            )
            for problem in await self._adapters.inventory.integrity()
        ]
        after = await self._adapters.inventory.first_seq() - 1
        while page := await self._adapters.inventory.events(after, 5000):
            for event in page:
                if event.seq != after + 1:
                    found.append(
                        Difference(
                            kind=_M.EVENT_GAP,
                            name=str(after + 1),
                            text=f"events {after + 1} to {event.seq - 1} are not there",
                        )
                    )
                after = event.seq
        return found

    async def _mend(self, difference: Difference, look: Look) -> Difference:
        if not difference.remedy:
            return difference
        try:
            await self._do(difference, look)
        except LabdError as error:
            return replace(difference, text=f"{difference.text}; it stays: {error.message}")
        return replace(difference, repaired=True)

    async def _do(self, difference: Difference, look: Look) -> None:
        adapters, name = self._adapters, difference.name
        match difference.kind:
            case _M.ORPHAN_PROCESS:
                for machine in await adapters.nodes.scan():
                    if str(machine.process.pid) == name:
                        await adapters.nodes.kill_process(machine)
            case _M.ORPHAN_NAMESPACE:
                await adapters.servers.sweep(plan.namespace for plan in look.rows.plans.values())
                await adapters.uplinks.sweep(plan.namespace for plan in look.rows.plans.values())
                await adapters.networks.remove(name)
            case _M.LOST_NETWORK | _M.ORPHAN_NETWORK | _M.LOST_SERVER | _M.LOST_UPLINK:
                plan = look.rows.plans[name.partition("/")[0]]
                await adapters.networks.apply(plan)
                await adapters.uplinks.apply(plan)
                await adapters.servers.apply(plan)
            case _M.ORPHAN_FOLDER:
                what, _, key = name.partition("/")
                if what == "disks":
                    await adapters.storage.discard(key)
                else:
                    folder = self._folder(what) / key
                    await quick(shutil.rmtree, folder, ignore_errors=True)
            case _M.ORPHAN_KEYS:
                await adapters.keys.remove(name)
            case _:
                for source, trace in look.traces:
                    if (fsck_traces.kind_of(trace), trace.name) == (difference.kind, name):
                        await source.remove(trace)

    def _folder(self, what: str) -> Path:
        run = self._adapters.run
        return {
            "sockets": run / "n",
            "servers": run / "d",
        }[what]


def _all_there(files: Iterable[Path]) -> bool:
    return all(path.exists() for path in files)
