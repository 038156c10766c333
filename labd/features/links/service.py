"""Links of running labs: carriers and impairments, as rows say over what templates say.

The rows are written first; whatever makes a tap or a machine reads them after it was made. So a
change that comes at the same time is either read, or finds the tap and the machine there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from labd.core.adapters import Adapters
from labd.core.gather import gather_all
from labd.core.state_writer import StateWriter
from labd.features.links.views import LinkChange, LinkView
from labd.model.errors import (
    InputError,
    LabdError,
    NetworkFailed,
    NodeGone,
    NodeUnresponsive,
    NotFound,
    QmpRefused,
    WorldError,
)
from labd.model.events import EventDraft, EventType
from labd.model.impairment import check, facts, with_values
from labd.model.links import LinkRecord, with_links
from labd.model.names import NodeRef, did_you_mean
from labd.model.records import LabRecord
from labd.model.slots import numbered
from labd.model.specs import LabSpec, NicSpec, NodeSpec
from labd.model.states import NODE_ALIVE, NodeState

log = logging.getLogger(__name__)

_MOMENT = 1.0  # seconds
_End = tuple[str, str]  # node, NIC


class LinkService:
    """Carriers and impairments. What is changed stays until `reset`, or the lab goes."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        # Each is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._later: set[asyncio.Task[None]] = set()
        self._owed: set[str] = set()  # labs whose links may not be as they shall

    # asking

    async def show(self, lab: str) -> Sequence[LinkView]:
        """Return the links of a lab, in the order of its networks."""
        record = await self._state_writer.lab(lab)
        return _views(record.spec, await self._adapters.inventory.links(lab))

    async def set(self, lab: str, change: LinkChange) -> Sequence[LinkView]:
        """Change links, now and for later starts; return those that were meant.

        Raises:
            NotFound: The lab has no such link, network or NIC.
            InputError: The values make no sense, or this kernel cannot do it.
        """
        async with self._lock(lab):
            record = await self._state_writer.lab(lab)
            ends = _ends(record.spec, change.target, change.sender)
            if change.down is not None and change.sender:
                raise InputError("a carrier is lost at every end: leave the sender out")
            if change.down is None and not change.fields:
                raise InputError("nothing is said of what to change; give a rate, for example")
            old = {(row.node, row.nic): row for row in await self._adapters.inventory.links(lab)}
            new = {end: _changed(record, old.get(end), end, change) for end in ends}
            for row in new.values():
                if row.sends is not None:
                    check(row.sends)
            await self._adapters.links.check(r.sends for r in new.values() if r.sends is not None)
            await self._change(record, old, new)
        return [v for v in await self.show(lab) if (v.node, v.nic) in new]

    async def reset(self, lab: str, target: str = "") -> Sequence[LinkView]:
        """Have links as the template says; all without a target. Return those that were meant."""
        async with self._lock(lab):
            record = await self._state_writer.lab(lab)
            old = {(row.node, row.nic): row for row in await self._adapters.inventory.links(lab)}
            ends = _ends(record.spec, target, "") if target else _all_ends(record.spec)
            nothing = LinkRecord(lab=lab, node="", nic="")
            new = {end: replace(nothing, node=end[0], nic=end[1]) for end in ends}
            await self._change(record, old, new)
        return [v for v in await self.show(lab) if (v.node, v.nic) in new]

    # what starts and changes machines calls these

    async def apply_links(self, lab: str, *, fresh: bool = False) -> None:
        """Have the impairments of a lab as they shall be, on the taps that are there.

        Args:
            lab: Its name.
            fresh: No tap can have one that it should not have.
        """
        async with self._lock(lab):
            await self._apply_links(lab, fresh=fresh)

    async def apply_carrier(self, ref: NodeRef, key: str, *, whole: bool = False) -> None:
        """Switch off the carriers of a machine that shall be off; with `whole`, the rest on."""
        async with self._lock(ref.lab):
            await self._apply_carrier(ref, key, whole=whole)

    async def sync(self, lab: str) -> None:
        """Have everything as it shall be, whatever was there before.

        Raises:
            WorldError: Part of it failed, all else is done; `owes` says so until it is made up for.
        """
        async with self._lock(lab):
            alive = [n for n in await self._adapters.inventory.nodes(lab) if n.state in NODE_ALIVE]
            carried = [self._apply_carrier(NodeRef(lab, n.name), n.key, whole=True) for n in alive]
            try:
                await gather_all([self._apply_links(lab), *carried])
            except WorldError:
                self._owed.add(lab)
                raise
            self._owed.discard(lab)

    def owes(self, lab: str) -> bool:
        """True if the links of a lab may not be as they shall since something failed."""
        return lab in self._owed

    def forget(self, lab: str) -> None:
        """Owe nothing to a lab that is gone."""
        self._owed.discard(lab)

    async def close(self) -> None:
        """Leave what waits for machines that hang."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    # doing

    def _lock(self, lab: str) -> asyncio.Lock:
        return self._locks.setdefault(lab, asyncio.Lock())

    async def _change(
        self, lab: LabRecord, old: dict[_End, LinkRecord], new: dict[_End, LinkRecord]
    ) -> None:
        """Write and do it; what the kernel refuses is taken back."""
        changed = {end: row for end, row in new.items() if _says(old.get(end)) != _says(row)}
        await self._write(lab, changed)
        try:
            await self._apply_links(lab.name)
        except NetworkFailed:
            back = {
                end: old.get(end) or replace(row, down=None, sends=None)
                for end, row in changed.items()
            }
            await self._write(lab, back)
            self._owed.add(lab.name)  # the kernel may have taken part of it
            raise
        nodes = {node.name: node for node in await self._adapters.inventory.nodes(lab.name)}
        for name in dict.fromkeys(node for node, _ in new):
            node = nodes.get(name)
            if node is not None and node.state in NODE_ALIVE:
                await self._apply_carrier(NodeRef(lab.name, name), node.key, whole=True)

    async def _write(self, lab: LabRecord, rows: dict[_End, LinkRecord]) -> None:
        async with self._adapters.inventory.transaction() as tx:
            # It may have gone since it was looked at.
            if await self._adapters.inventory.lab(lab.name) is None:
                raise NotFound(f"there is no lab {lab.name}")
            before = await self._effective(lab)
            for row in rows.values():
                if row.empty:
                    await tx.delete_link(row)
                else:
                    await tx.put_link(row)
            after = await self._effective(lab)
            for (node, nic), was in _nics(before).items():
                now = _nics(after)[node, nic]
                if now != was:
                    await tx.emit(_told(lab.name, node, now))

    async def _effective(self, lab: LabRecord) -> LabSpec:
        return with_links(lab.spec, await self._adapters.inventory.links(lab.name))

    async def _apply_links(self, lab: str, *, fresh: bool = False) -> None:
        record = await self._state_writer.lab(lab)
        spec = await self._effective(record)
        keys = {node.name: node.key for node in await self._adapters.inventory.nodes(lab)}
        plan = self._adapters.plan_network(spec, record.key, keys)
        if plan.shapes or not fresh:
            await self._adapters.links.apply(plan.namespace, plan.shapes)

    async def _apply_carrier(self, ref: NodeRef, key: str, *, whole: bool = False) -> None:
        spec = await self._effective(await self._state_writer.lab(ref.lab))
        node = next((item for item in spec.nodes if item.name == ref.node), None)
        if node is None:
            return
        try:
            await self._switch(node, key, whole=whole)
        except NodeGone:
            return  # its next start reads the rows
        except NodeUnresponsive as error:
            log.warning("carriers of %s are switched when it answers again: %s", ref, error)
            self._do_later(self._when_it_answers(ref))

    async def _switch(self, node: NodeSpec, key: str, *, whole: bool) -> None:
        for slot, nic in numbered(node.nics):
            if not nic.down and not whole:
                continue
            try:
                carriers = self._adapters.nodes.carriers(key)
                await carriers.set_carrier(key, f"n{slot}", up=not nic.down)
            except QmpRefused as error:
                # Not plugged yet, or gone already; what plugs it switches it.
                log.info("carrier of %s/%s: %s", node.name, nic.name, error)

    def _do_later(self, work: Coroutine[None, None, None]) -> None:
        task = self._adapters.tasks.spawn("links", work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _when_it_answers(self, ref: NodeRef) -> None:
        await asyncio.sleep(_MOMENT)  # until its state is written
        node = await self._state_writer.wait_node(ref, set(NodeState) - {NodeState.UNRESPONSIVE})
        if node is None or node.state not in NODE_ALIVE:
            return
        try:
            await self.apply_carrier(ref, node.key, whole=True)
        except LabdError as error:
            log.warning("carriers of %s: %s", ref, error)


# pure


def _nics(spec: LabSpec) -> dict[_End, NicSpec]:
    return {(node.name, nic.name): nic for node in spec.nodes for nic in node.nics}


def _all_ends(spec: LabSpec) -> list[_End]:
    return list(_nics(spec))


def _says(row: LinkRecord | None) -> tuple[object, object]:
    return (None, None) if row is None else (row.down, row.sends)


def _ends(spec: LabSpec, target: str, sender: str) -> list[_End]:
    """Return the NICs that are meant.

    Raises:
        NotFound: There are none of these names.
        InputError: Target and sender contradict each other.
    """
    nics = _nics(spec)
    if "/" in target:
        if sender:
            raise InputError(f"{target[:80]} names the sender already; leave the other out")
        node, _, nic = target.partition("/")
        if (node, nic) not in nics:
            names = [f"{node}/{nic}" for node, nic in nics]
            raise NotFound(f"there is no NIC {target[:80]}{did_you_mean(target, names)}")
        return [(node, nic)]
    names = [network.name for network in spec.networks]
    if target not in names:
        near = did_you_mean(target, names) or f"; there are {', '.join(names) or 'none'}"
        raise NotFound(f"there is no link or network {target[:40]}{near}")
    members = [end for end, nic in nics.items() if nic.network == target]
    if not sender:
        return members
    found = [end for end in members if sender in (end[0], f"{end[0]}/{end[1]}")]
    if not found:
        there = ", ".join(f"{node}/{nic}" for node, nic in members) or "nobody"
        raise InputError(f"{sender[:80]} sends nothing into {target}; these do: {there}")
    return found


def _changed(lab: LabRecord, old: LinkRecord | None, end: _End, change: LinkChange) -> LinkRecord:
    row = old or LinkRecord(lab=lab.name, node=end[0], nic=end[1])
    now = row.sends if row.sends is not None else _nics(lab.spec)[end].sends
    if change.fields:
        row = replace(row, sends=with_values(now, change.fields))
    if change.down is not None:
        row = replace(row, down=change.down)
    return row


def _views(spec: LabSpec, rows: Iterable[LinkRecord]) -> list[LinkView]:
    rows = list(rows)
    said = {(row.node, row.nic) for row in rows}
    nics = _nics(with_links(spec, rows))
    found: list[LinkView] = []
    for network in spec.networks:
        members = [end for end, nic in nics.items() if nic.network == network.name]
        found += [
            LinkView(
                network=network.name,
                link=network.link,
                node=node,
                nic=nic,
                to=tuple("/".join(end) for end in members if end != (node, nic)),
                down=nics[node, nic].down,
                sends=nics[node, nic].sends,
                changed=(node, nic) in said,
            )
            for node, nic in members
        ]
    return found


def _told(lab: str, node: str, nic: NicSpec) -> EventDraft:
    return EventDraft(
        type=EventType.LINK_CHANGED,
        lab=lab,
        node=node,
        subject=nic.network,
        data={"nic": nic.name, "down": nic.down, **facts(nic.sends)},
    )
