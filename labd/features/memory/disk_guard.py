"""Holds what labs write to their quota: one whose disks have outgrown it is paused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from labd.core.adapters import Adapters
from labd.features.memory.pausing import Pauser
from labd.model.errors import LabdError
from labd.model.records import LabRecord, NodeRecord
from labd.model.units import format_size

log = logging.getLogger(__name__)

_EVERY = 5.0  # seconds; a look costs a stat(2) for each disk


class DiskGuard:
    """Level-triggered: a lab that is resumed and has not become smaller is paused again."""

    def __init__(self, adapters: Adapters, pauser: Pauser) -> None:
        self._adapters = adapters
        self._pauser = pauser

    async def run(self) -> None:
        """Look for ever, when there is a quota."""
        while self._adapters.limits.quotas.written:
            try:
                await self.tick()
            except LabdError as error:
                log.warning("what labs have written cannot be watched: %s", error)
            await asyncio.sleep(_EVERY)

    async def tick(self) -> None:
        """Look once at each lab that runs."""
        for lab, running in await self._pauser.running():
            with self._adapters.tasks.contained("disk-quotas"):  # the others are held to theirs
                try:
                    await self._look(lab, running)
                except OSError as error:
                    log.warning("what lab %s has written cannot be told: %s", lab.name, error)

    async def _look(self, lab: LabRecord, running: Sequence[NodeRecord]) -> None:
        allowed = self._adapters.limits.quotas.written
        nodes = await self._adapters.inventory.nodes(lab.name)
        written = sum([await self._adapters.storage.usage(node.key) for node in nodes])
        if written <= allowed or not self._pauser.bears(lab.name):
            return
        why = (
            f"the disks of the lab take {format_size(written)} of the host, and "
            f"{format_size(allowed)} is allowed; destroy it, or have the administrator raise "
            "written_mib in labd.toml"
        )
        facts = {"written": written, "allowed": allowed}
        await self._pauser.pause(lab.name, running, "disk-quota", why, facts)
