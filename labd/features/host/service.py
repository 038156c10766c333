"""The daemon and its host: what the doctor finds, and facts about both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from labd.core.adapters import Adapters
from labd.core.supervision import FailureReporter
from labd.model.states import NodeState

Findings = Callable[[], Awaitable[Sequence[Mapping[str, str]]]]
Info = Callable[[], Mapping[str, object]]


class HostService:
    """Tells what this host can do, and what this daemon is.

    Args:
        adapters: The inventory counts.
        failures: Of background tasks.
        findings: What the doctor says of the host.
        info: Facts about this daemon that do not change, or are its broker's.
    """

    def __init__(
        self, adapters: Adapters, failures: FailureReporter, findings: Findings, info: Info
    ) -> None:
        self._inventory = adapters.inventory
        self._failures = failures
        self._findings = findings
        self._facts = info

    async def findings(self) -> Sequence[Mapping[str, str]]:
        """Return what `lab doctor` shows: name, level (ok, warn, fail), text, advice."""
        own = [finding.as_dict() for finding in self._failures.findings(time.time)]
        return [*await self._findings(), *own]

    async def info(self) -> Mapping[str, object]:
        """Return version, host id, root, pid, accelerator, broker address, counts."""
        nodes = await self._inventory.nodes()
        return {
            **self._facts(),
            "labs": len(await self._inventory.labs()),
            "nodes": len(nodes),
            "nodes_running": sum(
                node.state in {NodeState.RUNNING, NodeState.READY} for node in nodes
            ),
            "last_seq": await self._inventory.last_seq(),
            "published_seq": await self._inventory.published_seq(),
        }
