"""A second kind of node: no screen, no agent, no checkpoints, no hot-plug, no accelerator.

It is a host of its own with its own processes, so that a call that goes to the wrong driver finds
no machine, and it takes no machine of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from labd.core.taps import close_taps
from labd.drivers.node.driver import NodeDriver
from labd.model.errors import LaunchFailed
from labd.model.kinds import Capability
from labd.model.machine import FoundMachine, GuestEvent, MachineSpec, RunState
from labd.model.process import ProcessId, Spawned
from tests.fakes.host import FakeHost
from tests.fakes.hypervisor import FakeHypervisor

LIGHT: Final = "light"
OFFERS: Final = frozenset({Capability.CONSOLE})


class LightNodes:
    """`NodePort` and nothing but that: no call of QEMU's is there to be made by mistake."""

    def __init__(self, host: FakeHost) -> None:
        self.consoles = FakeHypervisor(host)

    def listen(self, listener: Callable[[GuestEvent], None]) -> None:
        self.consoles.listen(listener)

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], *, spawned: Spawned | None = None
    ) -> ProcessId:
        if machine.kind != LIGHT:
            close_taps(taps)
            raise LaunchFailed(f"{machine.node} is a {machine.kind} and no light node")
        return await self.consoles.launch(machine, taps, spawned=spawned)

    async def adopt(self, machine: MachineSpec, process: ProcessId) -> RunState:
        return await self.consoles.adopt(machine, process)

    async def scan(self) -> Sequence[FoundMachine]:
        return await self.consoles.scan()

    def has(self, key: str) -> bool:
        return self.consoles.has(key)

    async def resume(self, key: str) -> None:
        await self.consoles.resume(key)

    async def pause(self, key: str) -> None:
        await self.consoles.pause(key)

    async def reset(self, key: str) -> None:
        await self.consoles.reset(key)

    async def power_down(self, key: str) -> None:
        await self.consoles.power_down(key)

    async def kill(self, key: str, *, discard: bool = False) -> None:
        await self.consoles.kill(key, discard=discard)

    async def kill_process(self, process: ProcessId) -> None:
        await self.consoles.kill_process(process)

    async def query(self, key: str) -> RunState:
        return await self.consoles.query(key)

    def rename(self, machine: MachineSpec) -> None:
        self.consoles.rename(machine)

    async def forget(self, *machines: MachineSpec) -> None:
        await self.consoles.forget(*machines)

    def message_log(self, machine: MachineSpec) -> Path:
        return self.consoles.message_log(machine)

    async def close(self) -> None:
        await self.consoles.close()


def light_driver(
    host: FakeHost, crashing: Callable[[Any, str], Any] = lambda port, _: port
) -> NodeDriver:
    """Return a driver of light nodes on a host.

    Args:
        host: Of their processes.
        crashing: Wraps the port, to end a daemon at its calls; see `tests.fakes.crash`.
    """
    nodes = LightNodes(host)
    return NodeDriver(kind=LIGHT, port=crashing(nodes, "nodes"), consoles=nodes.consoles)
