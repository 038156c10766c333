"""One machine on its way into a checkpoint: QEMU's own live migration, into a file.

The memory is copied while the guest runs. `stop` for all machines of the lab is the barrier; what
was dirtied since is written then, and the devices. `pause-before-switchover` holds each QEMU before
it lets go of its disks, so that these get a new top while nothing moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from typing import Final

from labd.drivers.node.qemu import folding
from labd.drivers.node.qemu.devices import protocol_node
from labd.drivers.node.qemu.monitor import QmpEvent
from labd.drivers.node.qemu.vm import Vm
from labd.drivers.storage.port import BlockStorage
from labd.host.threads import bulk
from labd.model.checkpoints import Growth, SaveOrder
from labd.model.errors import LabdError, QmpRefused, StorageFailed, WorldError
from labd.model.machine import RunState

_STREAM_NAME = "labd-state"
_UNLIMITED: Final = 1 << 40  # bytes per second
_ENDED = frozenset({"completed", "failed", "cancelled"})
_BUSY = frozenset({"setup", "active", "pre-switchover", "device", "cancelling"})
_SETTLE = 10.0  # seconds for a cancelled migration to end
_LOOK_EVERY = 0.02  # seconds between looks at it
_PASSES = 3  # by then a guest that writes all the time gains nothing more
_CAPABILITIES = ("events", "pause-before-switchover")

log = logging.getLogger(__name__)


class Saver:
    """Saves one machine. After a failure `take_back` leaves it as it was found."""

    def __init__(self, vm: Vm, order: SaveOrder, storage: BlockStorage) -> None:
        self._storage = storage
        self.vm = vm
        self.order = order
        self.ran = False  # its CPUs ran when it was found
        self.stopped_at = 0.0  # seconds since the epoch, QEMU's clock
        self.pause = 0.0
        self._status = ""
        self._passes = 0
        self._problem = ""
        self._news = asyncio.Event()
        self._resumed_at = 0.0
        self._blocks: list[str] = []  # block nodes that were added and are not in use yet
        self._began = False

    # before the barrier

    async def prepare(self) -> None:
        """Hand QEMU its files, and turn on what is needed. The guest runs on."""
        self.vm.listeners.add(self._hear)
        self.ran = await self.vm.query() is RunState.RUNNING
        for growth in self.order.grow:
            await self._add_top(growth)
        await self._set_capabilities(on=True)
        await self.vm.execute(
            "migrate-set-parameters", {"max-bandwidth": _UNLIMITED, "downtime-limit": 0}
        )
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.order.stream, flags, 0o600)
        try:
            await self.vm.monitor.hand_over(_STREAM_NAME, fd)
        finally:
            os.close(fd)

    async def _add_top(self, growth: Growth) -> None:
        name = _node_name(growth)
        attached = await self._storage.attach(growth.top, writable=True)
        fdset = 0
        if attached.fd is not None:
            try:
                fdset = await self.vm.monitor.add_descriptor(attached.fd)
            finally:
                os.close(attached.fd)
        file = protocol_node(attached, f"{name}-f", fdset, writable=True)
        await self.vm.execute("blockdev-add", file)
        self._blocks.append(f"{name}-f")
        top = {"driver": "qcow2", "node-name": name, "file": f"{name}-f", "discard": "unmap"}
        await self.vm.execute("blockdev-add", {**top, "backing": None})
        self._blocks.append(name)

    async def begin(self) -> None:
        """Let QEMU copy the memory while the guest runs."""
        self._began = True
        await self.vm.execute("migrate", {"uri": f"fd:{_STREAM_NAME}"})

    async def left(self) -> int:
        """Return the bytes of memory that are still to be copied; 0 when it has stopped."""
        if self.stopped_at or self._passes > 1:
            return 0
        answer = await self.vm.execute("query-migrate")
        ram = answer.get("ram") if isinstance(answer, Mapping) else None
        return int(ram["remaining"]) if isinstance(ram, Mapping) else 0

    @property
    def due(self) -> bool:
        """The memory was copied once: the rest is small, or will not get smaller."""
        return bool(self.stopped_at) or self._passes >= _PASSES or self._status in _ENDED

    @property
    def standing(self) -> bool:
        """It stands still, or has failed: the others must not go on without it."""
        return bool(self.stopped_at) or self._status in _ENDED

    async def changed(self) -> None:
        """Wait until anything was heard of it."""
        await self._news.wait()
        self._news.clear()

    # behind the barrier

    async def stop(self) -> None:
        """Stop the CPUs, and everything that was written is in the files."""
        await self.vm.execute("stop")

    async def freeze(self) -> None:
        """Wait for the last of the memory, then put a new top on each disk.

        Raises:
            StorageFailed: QEMU could not write.
        """
        await self._reach("pre-switchover")
        actions = []
        for growth in self.order.grow:
            present = await self._active(growth.disk)
            data = {"node": present, "overlay": _node_name(growth)}
            actions.append({"type": "blockdev-snapshot", "data": data})
        if actions:
            await self.vm.execute("transaction", {"actions": actions})
            self._blocks.clear()
        for source, target in self.order.copies:
            await bulk(shutil.copyfile, source, target)

    async def finish(self) -> None:
        """Have the devices written."""
        await self.vm.execute("migrate-continue", {"state": "pre-switchover"})
        await self._reach("completed")
        # QEMU says so a moment before it would obey `cont`.
        await _finalised(self.vm)

    async def go_on(self) -> None:
        """Let the CPUs run again, when they ran before."""
        if not self.ran:
            return
        await self.vm.resume()
        async with asyncio.timeout(_SETTLE):
            while not self._resumed_at:
                await self.changed()
        self.pause = self._resumed_at - self.stopped_at

    async def machine_type(self) -> str:
        """Return QEMU's versioned name of the board."""
        kind = await self.vm.execute("qom-get", {"path": "/machine", "property": "type"})
        return str(kind).removesuffix("-machine")

    async def take_back(self) -> None:
        """Undo what was begun and let the guest run on; what cannot be undone is only logged."""
        try:
            if self._began and self._status not in _ENDED:
                self._status = await _cancel(self.vm)
            await _drop_stream(self.vm)
            for name in reversed(self._blocks):
                with contextlib.suppress(QmpRefused):
                    await self.vm.execute("blockdev-del", {"node-name": name})
            await _finalised(self.vm)
            if self.ran and await self.vm.query() is not RunState.RUNNING:
                await self.vm.resume()
        except (LabdError, TimeoutError) as error:
            log.warning("%s could not be put back as it was: %s", self.vm.name, error)

    async def close(self) -> None:
        """Turn off what `prepare` turned on."""
        self.vm.listeners.discard(self._hear)
        with contextlib.suppress(LabdError):
            await self._set_capabilities(on=False)

    async def _set_capabilities(self, *, on: bool) -> None:
        wanted = [{"capability": name, "state": on} for name in _CAPABILITIES]
        await self.vm.execute("migrate-set-capabilities", {"capabilities": wanted})

    async def _active(self, disk: str) -> str:
        """Return the block node that a disk writes to at present."""
        answer = await self.vm.execute("query-block")
        for entry in answer if isinstance(answer, list) else ():
            # The device's id (ide-hd), or the path of its part without one (virtio-backend).
            if (
                isinstance(entry, Mapping)
                and f"dev-{disk}" in str(entry.get("qdev")).split("/")
                and isinstance(inserted := entry.get("inserted"), Mapping)
            ):
                return str(inserted["node-name"])
        raise WorldError(f"{self.vm.name} has no disk {disk}: it was changed meanwhile; try again")

    async def _reach(self, wanted: str) -> None:
        while self._status != wanted:
            if self._status in _ENDED:
                raise StorageFailed(
                    f"QEMU of {self.vm.name} could not write its state ({self._status}): "
                    f"{self._problem or 'is the disk full?'}"
                )
            if self.vm.gone.is_set():
                raise self.vm.error_gone()
            await self.changed()

    def _hear(self, event: QmpEvent) -> None:
        kind, data = event.get("event"), event.get("data")
        facts = data if isinstance(data, Mapping) else {}
        if kind == "MIGRATION":
            self._status = str(facts.get("status"))
        elif kind == "MIGRATION_PASS":
            self._passes = int(facts.get("pass", 0))
        elif kind == "STOP":
            self.stopped_at = self.stopped_at or folding.event_time(event)
        elif kind == "RESUME":
            self._resumed_at = folding.event_time(event)
        else:
            return
        self._news.set()


async def _migration(vm: Vm) -> str:
    answer = await vm.execute("query-migrate")
    return str(answer.get("status", "")) if isinstance(answer, Mapping) else ""


async def _cancel(vm: Vm) -> str:
    """Cancel a migration; return what became of it when it has ended.

    QEMU 7.2 forgets to wake one that is cancelled just as it stops before its switch-over: it has
    looked whether it is cancelled, and waits then (migration_maybe_pause, migration/migration.c).
    `migrate-continue` wakes it; one too many does no harm.

    Raises:
        TimeoutError: It did not end.
    """
    await vm.execute("migrate_cancel")
    async with asyncio.timeout(_SETTLE):
        while (status := await _migration(vm)) in _BUSY:
            await asyncio.sleep(_LOOK_EVERY)
            if status == "cancelling":
                with contextlib.suppress(QmpRefused):  # it has ended meanwhile
                    await vm.execute("migrate-continue", {"state": "cancelling"})
    return status


async def _drop_stream(vm: Vm) -> None:
    """Have QEMU close the file of a saving that never began; else a deleted one would stay open."""
    with contextlib.suppress(QmpRefused):
        await vm.execute("closefd", {"fdname": _STREAM_NAME})


async def _finalised(vm: Vm) -> None:
    async with asyncio.timeout(_SETTLE):
        while True:
            status = await vm.execute("query-status")
            if not isinstance(status, Mapping) or status.get("status") != "finish-migrate":
                return
            await asyncio.sleep(0.001)


async def abandon(vm: Vm, *, run: bool) -> None:
    """End what an earlier daemon began to save, and let the machine run on if it ran then.

    Raises:
        LabdError: QEMU does not answer, or has ended, or does not end the saving.
    """
    try:
        if await _migration(vm) in _BUSY:
            await _cancel(vm)
        await _drop_stream(vm)
        wanted = [{"capability": name, "state": False} for name in _CAPABILITIES]
        with contextlib.suppress(QmpRefused):
            await vm.execute("migrate-set-capabilities", {"capabilities": wanted})
        await _finalised(vm)
    except TimeoutError as error:
        raise WorldError(f"QEMU of {vm.name} does not end its migration; restart it") from error
    if run and await vm.query() is RunState.PAUSED:
        await vm.resume()


def _node_name(growth: Growth) -> str:
    # At most 31 characters; the name of a top has a random part.
    return f"{growth.disk}-{growth.top.name.split('.')[-2]}"
