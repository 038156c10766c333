"""A failpoint before and after every call by which the engine changes the world.

The points follow from the protocols of the ports, so that a new method has its two from the day
that it is written. What only looks is listed in `LOOKS`; a test holds both to the ports.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from labd.core.adapters import Adapters
from labd.core.nodes import Nodes
from labd.core.ports import PluginRunner, Traces
from labd.core.taps import Taps, close_taps
from labd.drivers.node.driver import NodeDriver, parts
from labd.host.failpoints import Failpoints
from labd.inventory.port import Inventory, Transaction

# Calls that change nothing outside of the daemon, by port.
LOOKS: Final[Mapping[str, frozenset[str]]] = {
    "inventory": frozenset(
        name for name, _ in inspect.getmembers(Inventory, inspect.iscoroutinefunction)
    ),
    "nodes": frozenset({"query", "scan", "close"}),
    "accelerators": frozenset({"accel"}),
    "agents": frozenset({"agent_exec", "agent_ping"}),
    "consoles": frozenset({"wait_console"}),
    "plugins": frozenset({"close"}),
    "dialer": frozenset({"dial"}),
    "interfaces": frozenset({"interfaces"}),
    "servers": frozenset({"check", "close", "leases", "neighbours"}),
    "keys": frozenset({"all", "read"}),
    "guest_files": frozenset({"write"}),  # nothing of the host
    "storage": frozenset({"attach", "exists", "machines", "sizes", "usage", "virtual_size"}),
    "screens": frozenset({"press", "screenshot", "viewer"}),  # nothing of the host
    "networks": frozenset({"bridges", "namespaces", "probe_tcp"}),
    "uplinks": frozenset({"check"}),
    "links": frozenset({"check"}),
    "counters": frozenset({"glance", "read"}),
    "traces": frozenset({"find"}),
    "captures": frozenset({"open"}),  # ends with the daemon
    # A loop's, which does it again when the next daemon looks; tests/contract has that.
    "cgroups": frozenset({"hold", "groups", "outside"}),
    "memory": frozenset({"read", "prefer"}),  # ends with the process that it is said of
}
# Modules of the protocols that the core needs of the world.
_PORTS: Final = frozenset(
    {
        "labd.core.ports",
        "labd.drivers.network.port",
        "labd.drivers.storage.port",
        "labd.inventory.port",
    }
)
COMMIT: Final = "inventory.commit"
# Calls whose second argument is taps, which are the callee's from then on.
TAKES_TAPS: Final = frozenset({"launch"})


T = TypeVar("T")


def guarded_ports() -> Mapping[str, type]:
    """Return field of `Adapters` -> its protocol, for every field that is a port."""
    hints = typing.get_type_hints(Adapters)
    return {
        name: kind
        for name, kind in hints.items()
        if isinstance(kind, type) and kind.__module__ in _PORTS
    }


def node_ports() -> Mapping[str, type]:
    """Return field of `NodeDriver` -> its protocol; the points of all kinds have the same names."""
    hints = typing.get_type_hints(NodeDriver)
    return {
        name: next(kind for kind in (typing.get_args(hints[name]) or (hints[name],)))
        for name in parts()
    }


def _point(part: str) -> str:
    """Return what the points of a part of a driver are called after."""
    return "nodes" if part == "port" else part


def all_ports() -> Mapping[str, type]:
    """Return name -> protocol of every port, those too that are no plain field of `Adapters`."""
    nodes = {_point(part): kind for part, kind in node_ports().items()}
    return {**guarded_ports(), **nodes, "plugins": PluginRunner, "traces": Traces}


def changes(port: str, kind: type) -> list[str]:
    """Return the methods of a port by which the world is changed."""
    methods = [
        name
        for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
    ]
    return [name for name in methods if name not in LOOKS.get(port, frozenset())]


def registry() -> list[str]:
    """Return the names of all points around calls of the ports."""
    names = [
        f"{port}.{method}" for port, kind in all_ports().items() for method in changes(port, kind)
    ]
    return [f"{name}:{side}" for name in [*names, COMMIT] for side in ("before", "after")]


def guard(adapters: Adapters, failpoints: Failpoints) -> Adapters:
    """Return the world with points around its ports; the same where none is armed."""
    if not failpoints.armed:
        return adapters
    fields: dict[str, Any] = {
        name: guard_port(name, getattr(adapters, name), kind, failpoints)
        for name, kind in guarded_ports().items()
    }
    fields["nodes"] = Nodes(
        {kind: _guard_driver(d, failpoints) for kind, d in adapters.nodes.drivers.items()}
    )
    fields["traces"] = [guard_port("traces", t, Traces, failpoints) for t in adapters.traces]
    fields["inventory"] = _GuardedInventory(
        "inventory", adapters.inventory, frozenset(), failpoints
    )
    return replace(adapters, **fields)


def _guard_driver(driver: NodeDriver, failpoints: Failpoints) -> NodeDriver:
    """Return a driver with points around those parts that it has."""
    guarded: dict[str, Any] = {
        part: guard_port(_point(part), getattr(driver, part), kind, failpoints)
        for part, kind in node_ports().items()
        if getattr(driver, part) is not None
    }
    return replace(driver, **guarded)


def guard_port(name: str, target: T, kind: type, failpoints: Failpoints) -> T:
    """Return a port with points around the calls of its protocol `kind`."""
    if not failpoints.armed:
        return target
    made = _Guarded(name, target, frozenset(changes(name, kind)), failpoints)
    return typing.cast("T", made)


class _Guarded:
    """A port with a point on each side of its calls."""

    def __init__(
        self, port: str, target: object, names: frozenset[str], failpoints: Failpoints
    ) -> None:
        self._port, self._target = port, target
        self._names, self._failpoints = names, failpoints

    def __getattr__(self, name: str) -> object:
        method = getattr(self._target, name)
        if name not in self._names:
            return method

        async def call(*args: object, **kwargs: object) -> object:
            try:
                await self._failpoints.reach(f"{self._port}.{name}:before")
            except BaseException:
                if name in TAKES_TAPS:
                    # As the call itself does when it fails.
                    close_taps(typing.cast("Taps", args[1]))
                raise
            result = await method(*args, **kwargs)
            try:
                await self._failpoints.reach(f"{self._port}.{name}:after")
            except BaseException:
                if name == "open_taps":
                    close_taps(typing.cast("Taps", result))
                raise
            return result

        return call


class _GuardedInventory(_Guarded):
    """The inventory, with a point on each side of a commit."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See the port."""
        target: AbstractAsyncContextManager[Transaction] = self._inner().transaction()
        async with target as tx:
            yield tx
            await self._failpoints.reach(f"{COMMIT}:before")
        await self._failpoints.reach(f"{COMMIT}:after")

    def _inner(self) -> Inventory:
        return typing.cast("Inventory", self._target)
