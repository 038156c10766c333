"""Keeps each machine in its control group. Level-triggered: at each change of a state it looks.

A machine runs for some milliseconds before it is in its group. What it took until then is counted
where labd is; nothing of a start waits for this, and nothing fails by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.model.cgroups import Member
from labd.model.differences import Difference, Mismatch
from labd.model.errors import LabdError
from labd.model.states import NODE_ALIVE

log = logging.getLogger(__name__)

_AT_LEAST = 60.0  # seconds until the same machines are held again
_SETTLE = 1.0  # seconds that a machine has to come into its group
_PAUSE = 0.2  # seconds: one look for many changes


class CgroupController:
    """Holds groups to rows."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._told: frozenset[str] = frozenset()
        self._held: Sequence[Member] | None = None  # None: hold whoever there is
        self._until = 0.0  # monotonic time

    async def run(self) -> None:
        """Look for ever, where there is something to hold."""
        while self._adapters.cgroups.works():
            changed = self._state_writer.anything_changed()
            try:
                await self.look()
            except LabdError as error:
                log.warning("control groups cannot be looked after: %s", error)
            try:
                async with asyncio.timeout(_AT_LEAST):
                    await changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_PAUSE)

    async def look(self) -> None:
        """Hold groups to rows where other machines live than before, and once a minute."""
        members = await self._members()
        if members != self._held or time.monotonic() >= self._until:
            await self._hold(members)

    async def tick(self) -> None:
        """Have each machine that lives in its group, and no other group."""
        await self._hold(await self._members())

    async def _hold(self, members: Sequence[Member]) -> None:
        self._held, self._until = None, time.monotonic() + _AT_LEAST
        problems = frozenset(await self._adapters.cgroups.hold(members))
        for problem in sorted(problems - self._told):
            log.warning("control groups: %s", problem)
        self._told = problems
        if not problems:
            self._held = members

    async def _members(self) -> Sequence[Member]:
        keys = {lab.name: lab.key for lab in await self._adapters.inventory.labs()}
        return [
            Member(
                lab=keys[node.lab],
                key=node.key,
                process=node.process,
                memory=node.machine.memory,
                vcpus=node.machine.vcpus,
                kvm=node.machine.kvm,
            )
            for node in await self._adapters.inventory.nodes()
            if node.state in NODE_ALIVE
            and node.process is not None
            and node.machine is not None
            and node.lab in keys
        ]

    async def close(self) -> None:
        """Look a last time: what was taken down leaves no group."""
        with suppress(LabdError):
            await self.tick()

    async def check(self, *, repair: bool) -> Sequence[Difference]:
        """Return what groups and rows do not agree in, for `lab fsck`.

        What is only on its way, or was repaired by the next look anyway, is no difference.
        """
        found = await self.differences()
        if found:
            await asyncio.sleep(_SETTLE)
            later = await self.differences()
            found = [item for item in found if item in later]
        if not found or not repair:
            return found
        await self.tick()
        left = await self.differences()
        return [replace(item, repaired=item not in left) for item in found]

    async def differences(self) -> Sequence[Difference]:
        """Return what groups and rows do not agree in."""
        found = await self._adapters.cgroups.groups()
        members = await self._members()
        known = {f"{item.lab}/{item.key}" for item in members}
        orphans = [
            Difference(
                kind=Mismatch.ORPHAN_CGROUP,
                name=group,
                text=f"control group {group} belongs to no machine that lives",
                remedy="remove it",
            )
            for group in found
            if group not in known
        ]
        outside = [
            Difference(
                kind=Mismatch.LOST_CGROUP,
                name=key,
                text=f"machine {key} is not in its control group, and is not bounded",
                remedy="put it there",
            )
            for key in await self._adapters.cgroups.outside(members)
        ]
        return [*orphans, *outside]
