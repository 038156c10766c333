"""Holds what labs write to their quota: one whose disks have outgrown it is paused."""

from __future__ import annotations

import asyncio
import logging

from labd.core.adapters import Adapters
from labd.features.memory.pausing import Pauser
from labd.host.threads import quick
from labd.model.errors import LabdError
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
            except (LabdError, OSError) as error:
                log.warning("what labs have written cannot be watched: %s", error)
            await asyncio.sleep(_EVERY)

    async def tick(self) -> None:
        """Look once at each lab that runs."""
        allowed = self._adapters.limits.quotas.written
        for lab, running in await self._pauser.running():
            nodes = await self._adapters.inventory.nodes(lab.name)
            folders = [self._adapters.node_folder(node.key) for node in nodes]
            sizes = [await quick(self._adapters.folder_size, path) for path in folders]
            written = sum(sizes)
            if written <= allowed or not self._pauser.bears(lab.name):
                continue
            why = (
                f"the disks of the lab take {format_size(written)} of the host, and "
                f"{format_size(allowed)} is allowed; destroy it, or have the administrator raise "
                "written_mib in labd.toml"
            )
            facts = {"written": written, "allowed": allowed}
            await self._pauser.pause(lab.name, running, "disk-quota", why, facts)
