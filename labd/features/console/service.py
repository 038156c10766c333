"""Serial lines of nodes: viewers, and what was said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from labd.core.adapters import Adapters
from labd.core.failure_context import read_log
from labd.core.state_writer import StateWriter
from labd.drivers.node.capabilities import Console
from labd.features.activity import ActivityService, AttendedConsole
from labd.host.threads import quick
from labd.host.timelog import LogLine, read_lines, read_stamped
from labd.model.activity import Source
from labd.model.names import NodeRef
from labd.model.records import NodeRecord


class ConsoleService:
    """Attaches viewers to serial lines, and reads what was kept of them."""

    def __init__(
        self, adapters: Adapters, state_writer: StateWriter, activity: ActivityService
    ) -> None:
        self._adapters = adapters
        self._state_writer = state_writer
        self._activity = activity

    async def node(self, ref: NodeRef) -> NodeRecord:
        """Return one node."""
        return await self._state_writer.node(ref)

    @asynccontextmanager
    async def attach(self, ref: NodeRef) -> AsyncIterator[Console]:
        """Attach to a serial line."""
        node = await self._state_writer.node(ref)
        async with self._adapters.nodes.consoles(node.key).console(node.key) as console:
            yield AttendedConsole(console, lambda: self._activity.touch(ref.lab, Source.CONSOLE))

    async def lines(self, ref: NodeRef, after: int) -> Sequence[tuple[str, LogLine]]:
        """Return what a node said since its start, with times: source and line, by time.

        The source is `console` (behind the position `after`) or `qemu` (its stderr, all).
        """
        node = await self._state_writer.node(ref)
        if node.machine is None:
            return []
        console = self._adapters.nodes.consoles(node.machine).console_log(node.machine)
        messages = self._adapters.nodes.message_log(node.machine)
        lines = [
            *(("console", line) for line in await quick(read_lines, console, after)),
            *(("qemu", line) for line in await quick(read_stamped, messages)),
        ]
        return sorted(lines, key=lambda item: item[1].time)

    async def log(self, ref: NodeRef) -> bytes:
        """Return what is kept of the serial output of a node, at most 1 MiB."""
        node = await self._state_writer.node(ref)
        if node.machine is None:
            return b""
        path = self._adapters.nodes.consoles(node.machine).console_log(node.machine)
        return await quick(read_log, path)
