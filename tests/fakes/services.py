"""Uplinks, DHCP and DNS, and the interfaces that guest agents report, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from labd.model.errors import GuestFailed
from labd.model.network import LabNetworkPlan, UplinkPlan
from labd.model.serving import (
    GuestInterface,
    Lease,
    Neighbour,
    ServerChange,
    ServerPlan,
    ServerState,
)


class FakeUplinks:
    """Implements the port `Uplinks`; `open` is namespace -> its plan."""

    def __init__(self) -> None:
        self.open: dict[str, UplinkPlan] = {}
        self.fail: dict[str, Exception] = {}

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    async def check(self, plan: LabNetworkPlan) -> None:
        self._may("check")

    async def apply(self, plan: LabNetworkPlan) -> None:
        self._may("apply")
        if plan.uplinks is None:
            self.open.pop(plan.namespace, None)
        else:
            self.open[plan.namespace] = plan.uplinks

    async def remove(self, namespace: str) -> None:
        self._may("remove")
        self.open.pop(namespace, None)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        self._may("sweep")
        gone = sorted(self.open.keys() - set(keep))
        for namespace in gone:
            del self.open[namespace]
        return gone


class FakeInterfaces:
    """Implements the port `Interfaces`; `told` is machine key -> interfaces."""

    def __init__(self) -> None:
        self.told: dict[str, list[GuestInterface]] = {}
        self.hangs: set[str] = set()

    async def interfaces(self, key: str, timeout: float) -> Sequence[GuestInterface]:
        if key in self.hangs:
            await asyncio.sleep(timeout)
        if key not in self.told:
            raise GuestFailed("the guest has no agent")
        return self.told[key]


class FakeServers:
    """Implements the port `Servers`; `serving` is namespace -> plan, and outlives the daemon."""

    def __init__(self) -> None:
        self.serving: dict[str, ServerPlan] = {}
        self.given: dict[str, list[Lease]] = {}
        self.seen: dict[str, list[Neighbour]] = {}
        self.fail: dict[str, Exception] = {}
        self.emit: Callable[[ServerChange], None] = lambda _: None

    def _may(self, verb: str) -> None:
        if verb in self.fail:
            raise self.fail[verb]

    def listen(self, listener: Callable[[ServerChange], None]) -> None:
        self.emit = listener

    async def check(self, plan: LabNetworkPlan) -> None:
        self._may("check")

    async def apply(self, plan: LabNetworkPlan) -> None:
        self._may("apply")
        if plan.server is None:
            self.serving.pop(plan.namespace, None)
            return
        self.serving[plan.namespace] = plan.server
        self.happen(plan.namespace, ServerState.LEASES)

    async def remove(self, namespace: str) -> None:
        self._may("remove")
        self.serving.pop(namespace, None)
        self.given.pop(namespace, None)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        gone = sorted(self.serving.keys() - set(keep))
        for namespace in gone:
            del self.serving[namespace]
        return gone

    async def leases(self, namespace: str) -> Sequence[Lease]:
        return list(self.given.get(namespace, []))

    async def neighbours(self, namespace: str) -> Sequence[Neighbour]:
        return list(self.seen.get(namespace, []))

    async def close(self) -> None:
        self.emit = lambda _: None

    def happen(self, namespace: str, state: ServerState, reason: str = "") -> None:
        self.emit(ServerChange(namespace=namespace, state=state, reason=reason))
