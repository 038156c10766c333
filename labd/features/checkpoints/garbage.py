"""What checkpoints leave behind when nobody needs it any more: disk layers and loaded memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from labd.core.adapters import Adapters
from labd.core.chains import layers_of, references
from labd.core.operations import Operations
from labd.model.errors import LabdError
from labd.model.records import OperationKind

log = logging.getLogger(__name__)

_EVERY = 60.0  # seconds between two looks


class CheckpointCollector:
    """Removes what nothing stands on."""

    def __init__(self, adapters: Adapters, operations: Operations) -> None:
        self._adapters = adapters
        self._operations = operations
        self._holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every layer in this block: one may come that has no row yet."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    async def layers(self) -> set[str]:
        """Return the digests of all layers that a checkpoint or a node stands on."""
        found: set[str] = set()
        for record in await self._adapters.inventory.checkpoints():
            found |= layers_of(record)
        for node in await self._adapters.every_node():
            found |= references(node.machine, self._adapters.checkpoints.digest_of)
        return found

    async def run(self) -> None:
        """Tidy up now and then, for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.tidy()
            except (LabdError, OSError) as error:
                log.warning("what checkpoints left behind cannot be removed: %s", error)

    async def tidy(self) -> None:
        """Remove layers, and let go of memory that was idle for a while."""
        origins = {lab.origin for lab in await self._adapters.inventory.labs()}
        origins |= {pool.checkpoint for pool in await self._adapters.inventory.pools()}
        self._adapters.checkpoints.trim(origins)
        layers = await self.layers()
        # A save puts layers into the store before there is a row of it. From here to the end
        # nothing else runs, so that none can begin.
        if self._holders:
            return
        if all(op.kind is not OperationKind.CHECKPOINT for op in self._operations.running()):
            self._adapters.checkpoints.collect(layers)
