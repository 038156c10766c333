"""The watch over a machine's life, when the host refuses what it needs; a sleeper plays QEMU."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from labd.drivers.node.qemu.monitor import Monitor
from labd.drivers.node.qemu.process import SERIAL_SOCKET, listen
from labd.drivers.node.qemu.vm import Vm, VmTimes
from labd.host.backoff import Backoff
from labd.host.plain_file import open_file
from labd.host.spawn import spawn
from labd.host.supervision import TaskSupervisor
from labd.model.errors import LaunchFailed, NodeStuck, NodeUnresponsive
from labd.model.machine import GuestEvent, GuestEventKind
from tests.guests import machine_spec
from tests.unkillable import unkillable


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Refuse new descriptors to this process."""
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_is_not_blamed_when_descriptors_have_run_out(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with no_descriptor_left(), pytest.raises(LaunchFailed, match="raise LimitNOFILE= of labd"):
        open_file(path, writable=False)
    with pytest.raises(LaunchFailed, match="import the image again"):
        open_file(tmp_path / "none", writable=False)


async def test_an_end_is_seen_though_descriptors_had_run_out(tmp_path: Path) -> None:
    told: list[GuestEvent] = []
    qemu = await spawn(["sleep", "600"])
    vm = Vm(machine_spec(tmp_path), told.append, lambda _: None, VmTimes())
    vm.process = qemu.process  # as of one that an earlier daemon started
    try:
        with no_descriptor_left():
            vm.begin()
            await asyncio.sleep(0.1)  # the watch begins
        async with asyncio.timeout(60):
            await vm.kill()
    finally:
        await qemu.stop(grace=0)
        await vm.close()
    assert [event.kind for event in told] == [GuestEventKind.EXITED]


async def test_an_end_is_told_whatever_fails_on_the_way(tmp_path: Path) -> None:
    told: list[GuestEvent] = []
    tasks = TaskSupervisor()

    def ended(_: Vm) -> None:
        raise ZeroDivisionError("a bug")

    qemu = await spawn(["sleep", "600"])
    vm = Vm(machine_spec(tmp_path), told.append, ended, VmTimes(), tasks)
    vm.process = qemu.process
    try:
        vm.begin()
        async with asyncio.timeout(60):
            await vm.kill()
            while not told:
                await asyncio.sleep(0.01)
    finally:
        await qemu.stop(grace=0)
        await vm.close()
    assert [event.kind for event in told] == [GuestEventKind.EXITED]
    assert [item.error for item in tasks.failures()] == ["ZeroDivisionError: a bug"]


async def test_a_heart_beats_on_after_a_fault(tmp_path: Path) -> None:
    tasks = TaskSupervisor(backoff=lambda: Backoff(0.01, 0.01))
    qemu = await spawn(["sleep", "600"])
    vm = Vm(machine_spec(tmp_path), lambda _: None, lambda _: None, VmTimes(heartbeat=0.02), tasks)
    vm.process = qemu.process
    whole, vm.monitor = vm.monitor, cast("Monitor", None)  # of which nothing can be asked
    try:
        vm.begin()
        async with asyncio.timeout(60):
            while sum(item.failures for item in tasks.failures()) < 3:
                await asyncio.sleep(0.01)
    finally:
        vm.monitor = whole
        await qemu.stop(grace=0)
        await vm.close()


async def test_a_serial_line_is_attached_again_after_a_fault(tmp_path: Path) -> None:
    tasks = TaskSupervisor(backoff=lambda: Backoff(0.01, 0.01))
    vm = Vm(machine_spec(tmp_path), lambda _: None, lambda _: None, VmTimes(), tasks)
    spec = vm.spec
    spec.run.mkdir(parents=True, exist_ok=True)
    listener = listen(spec.run / SERIAL_SOCKET)
    vm.spec = replace(spec, run=cast("Path", None))  # TypeError
    try:
        async with asyncio.timeout(60):
            vm.hub.connection_lost(None)
            while not tasks.failures():
                await asyncio.sleep(0.01)
            vm.spec = spec
            qemu, _ = await asyncio.get_running_loop().sock_accept(listener)
            with qemu:
                await asyncio.get_running_loop().sock_sendall(qemu, b"ready\n")
                assert await vm.hub.wait("^ready$") == "ready"
    finally:
        listener.close()
        await vm.close()
        await asyncio.sleep(0)


async def test_one_that_does_not_end_is_told_and_its_end_comes_later(tmp_path: Path) -> None:
    told: list[GuestEvent] = []
    async with unkillable() as (process, let_go):
        vm = Vm(machine_spec(tmp_path), told.append, lambda _: None, VmTimes(kill=0.3))
        vm.process = process
        vm.begin()
        try:
            for _ in range(2):
                with pytest.raises(NodeStuck, match=r"process \d+, state .\) was killed and has"):
                    await asyncio.wait_for(vm.kill(), 20)
            assert [event.kind for event in told] == [GuestEventKind.STUCK]
            assert told[0].data["pid"] == process.pid
            let_go.set()
            await asyncio.wait_for(vm.kill(), 20)
        finally:
            await vm.close()
    assert [event.kind for event in told] == [GuestEventKind.STUCK, GuestEventKind.EXITED]


async def test_a_line_that_is_deaf_at_the_adoption_is_heard_again(tmp_path: Path) -> None:
    told: list[GuestEvent] = []
    qemu = await spawn(["sleep", "600"])
    vm = Vm(machine_spec(tmp_path), told.append, lambda _: None, VmTimes(deadline=0.5))
    vm.spec.run.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    try:
        with pytest.raises(NodeUnresponsive):
            await vm.adopt(qemu.process)  # nobody listens at its sockets
        vm.begin()
        async with asyncio.timeout(60):
            while GuestEventKind.CONSOLE_LOST not in [event.kind for event in told]:
                await asyncio.sleep(0.01)
            with listen(vm.spec.run / SERIAL_SOCKET) as listener:
                line, _ = await loop.sock_accept(listener)
            with line:
                await loop.sock_sendall(line, b"ready\n")
                assert await vm.hub.wait("^ready$") == "ready"
            while GuestEventKind.CONSOLE_RESTORED not in [event.kind for event in told]:
                await asyncio.sleep(0.01)
    finally:
        await qemu.stop(grace=0)
        await vm.close()
    (lost,) = [event for event in told if event.kind is GuestEventKind.CONSOLE_LOST]
    assert "cannot connect to the serial line" in str(lost.data["reason"])
