"""Whole labs saved behind one barrier, and machines that start from what was saved."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from labd.drivers.node.qemu import argv
from labd.drivers.node.qemu.devices import UEFI_VARS_COPY
from labd.drivers.node.qemu.qemu import QemuHypervisor
from labd.drivers.node.qemu.saving import Saver, abandon
from labd.host.commands import run
from labd.host.threads import quick
from labd.model.checkpoints import HostFacts, Incoming, Saved, SaveOrder
from labd.model.errors import LaunchFailed, NodeGone, WorldError
from labd.model.machine import MachineSpec
from labd.model.process import ProcessId
from labd.model.specs import Firmware

_COPYING: Final = 60.0  # seconds that memory may be copied before the barrier
_STANDING: Final = 60.0  # seconds that the last part may take
_LOADING: Final = 60.0  # seconds until a frozen state is loaded
_AGENT: Final = 5.0  # seconds until a woken guest's agent is there
_TELLING: Final = 15.0  # seconds that it has for one thing; thirty woken at once are slow
_LOOK = 0.02  # seconds between looks at how much is left
_VERSION = re.compile(r"version (\S+?)(?:\s|$)")


class QemuSnapshots:
    """Implements the port `Snapshots` of the engine for the machines of a hypervisor."""

    def __init__(self, hypervisor: QemuHypervisor) -> None:
        self._hypervisor = hypervisor
        self._facts: HostFacts | None = None

    async def facts(self) -> HostFacts:
        """Return what a frozen state needs of this host; see the port."""
        if self._facts is None:
            version = await run([argv.PROGRAM, "--version"])
            machines = await run([argv.PROGRAM, "-machine", "help"])
            found = _VERSION.search(version.stdout.decode(errors="replace"))
            lines = machines.stdout.decode(errors="replace").splitlines()[1:]
            model, flags = await quick(_read_cpu)
            self._facts = HostFacts(
                qemu=found[1] if found else "unknown",
                machines=frozenset(line.split()[0] for line in lines if line.split()),
                cpu_model=model,
                cpu_flags=flags,
            )
        return self._facts

    def fingerprint(self, machine: MachineSpec) -> str:
        """Return a digest of what the guest sees of a machine; see the port."""
        return argv.fingerprint(machine)

    def own_files(self, machine: MachineSpec) -> Sequence[str]:
        """Return the names of files that are saved by copying; see the port."""
        return (UEFI_VARS_COPY,) if machine.firmware is Firmware.UEFI else ()

    async def save(self, orders: Sequence[SaveOrder], *, go_on: bool) -> Saved:
        """Save machines behind one barrier; see the port."""
        savers = [
            Saver(self._hypervisor.machine(order.key), order, self._hypervisor.storage)
            for order in orders
        ]
        async with AsyncExitStack() as undo:
            for saver in savers:
                undo.push_async_callback(saver.close)
            async with AsyncExitStack() as back:
                for saver in savers:
                    back.push_async_callback(saver.take_back)
                await _all(saver.prepare() for saver in savers)
                kinds = await asyncio.gather(*(saver.machine_type() for saver in savers))
                await self._copy(savers)
                await self._cross(savers)
                if go_on:
                    await _all(saver.go_on() for saver in savers)
                back.pop_all()
        stops = [saver.stopped_at for saver in savers if saver.ran]
        return Saved(
            machine_types={s.order.key: kind for s, kind in zip(savers, kinds, strict=True)},
            agents=frozenset(s.order.key for s in savers if s.vm.agent.open),
            spread=max(stops) - min(stops) if stops else 0.0,
            pauses={s.order.key: s.pause for s in savers if go_on and s.ran},
        )

    async def _copy(self, savers: Sequence[Saver]) -> None:
        """Have all memory copied once while the guests run.

        QEMU stops a machine by itself as soon as nothing is left, and then all must stop. So the
        small ones begin when the large ones have no more left than they.
        """
        sizes = {saver.order.key: saver.vm.spec.memory for saver in savers}
        waiting = sorted(savers, key=lambda saver: sizes[saver.order.key])
        running: list[Saver] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COPYING):
                while waiting or not _ready(running):
                    left = max([await saver.left() for saver in running], default=0)
                    while waiting and (not running or sizes[waiting[-1].order.key] >= left):
                        saver = waiting.pop()
                        await saver.begin()
                        running.append(saver)
                    await _news(running, _LOOK if waiting else None)
        for saver in waiting:
            await saver.begin()

    async def _cross(self, savers: Sequence[Saver]) -> None:
        """Stop all, freeze all, write the rest."""
        try:
            async with asyncio.timeout(_STANDING):
                await _all(saver.stop() for saver in savers)
                await _all(saver.freeze() for saver in savers)
                await _all(saver.finish() for saver in savers)
        except TimeoutError as error:
            names = ", ".join(saver.vm.name for saver in savers)
            raise WorldError(
                f"{names} could not be saved within {_STANDING:g} s: the disk is too slow"
            ) from error

    async def abandon(self, key: str, *, run: bool) -> None:
        """End what an earlier daemon began to save; see the port."""
        await abandon(self._hypervisor.machine(key), run=run)

    async def launch(
        self, machine: MachineSpec, taps: Mapping[str, int], incoming: Incoming
    ) -> ProcessId:
        """Start a machine from a frozen state, its CPUs stopped; see the port."""
        return await self._hypervisor.launch(machine, taps, incoming)

    async def loaded(self, key: str) -> None:
        """Wait until a machine has loaded its state; see the port."""
        vm = self._hypervisor.machine(key)
        try:
            async with asyncio.timeout(_LOADING):
                while True:
                    status = await vm.execute("query-status")
                    word = status.get("status") if isinstance(status, Mapping) else None
                    if word not in {"inmigrate", "prelaunch"}:
                        break
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            raise LaunchFailed(f"{vm.name} did not load its state within {_LOADING:g} s") from error
        except NodeGone as error:
            raise LaunchFailed(f"QEMU of {vm.name} refused the state: {error.message}") from error

    async def set_clock(self, key: str) -> bool:
        """Set the guest's clock by its agent; see the port."""
        agent = self._hypervisor.machine(key).agent
        with contextlib.suppress(TimeoutError):
            # The guest opens its end of the port again when its CPUs run.
            async with asyncio.timeout(_AGENT):
                while not agent.open:  # noqa: ASYNC110 - the monitor sets it
                    await asyncio.sleep(0.01)
        return await agent.set_clock(_TELLING)

    async def authorize(self, key: str, keys: Mapping[str, Sequence[str]]) -> bool:
        """Change who may log in; see the port."""
        return await self._hypervisor.machine(key).agent.authorize(keys, _TELLING)

    async def announce(self, key: str) -> None:
        """Have the NICs tell the bridges where they are (QMP `announce-self`)."""
        schedule: dict[str, object] = {"initial": 50, "max": 500, "rounds": 3, "step": 100}
        await self._hypervisor.machine(key).execute("announce-self", schedule)


def _ready(savers: Sequence[Saver]) -> bool:
    return all(saver.due for saver in savers) or any(saver.standing for saver in savers)


async def _news(savers: Sequence[Saver], timeout: float | None) -> None:
    waits = [asyncio.ensure_future(saver.changed()) for saver in savers]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _all(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all to their end, and only then raise the first error."""
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _read_cpu() -> tuple[str, frozenset[str]]:
    model, flags = "", frozenset[str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = frozenset(value.split())
            break
    return model, flags
