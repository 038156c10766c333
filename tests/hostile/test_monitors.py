"""What a QEMU says at its monitor that obeys its guest: labd hears nonsense, and goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labd.drivers.node.qemu.folding import fold
from labd.drivers.node.qemu.monitor import Monitor, QmpEvent
from labd.drivers.node.qemu.vm import Vm, VmTimes
from labd.host.identity import is_alive
from labd.host.spawn import spawn
from labd.host.supervision import TaskSupervisor
from labd.model.errors import LabdError
from tests.guests import machine_spec

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0}}, "capabilities": []}}\n'
Answer = Callable[[dict[str, Any]], bytes]
BRACKETS = b"[" * 200_000
# Ends the connection: the library cannot go on behind it.
BREAKING = {
    "no utf-8": b"\xff\xfe\n",
    "no json": b"{\n",
    "no object": b"7\n",
    "brackets": BRACKETS + b"\n",
    "brackets in an event": b'{"event": "STOP", "data": ' + BRACKETS + b"\n",
    "too long": b'{"event": "' + b"x" * (5 << 20) + b'"}\n',
    "an id that is none": b'{"return": {}, "id": [1]}\n',
    "an error of nobody": b'{"error": {}}\n',
}
# In place of `return`: the caller is told, and the connection goes on.
ANSWERS: list[dict[str, object]] = [
    {},
    {"error": 7},
    {"error": {"class": [], "desc": {}}},
    {"error": {"desc": "no class"}},
]


@asynccontextmanager
async def monitor(answer: Answer, lost: Callable[[], None]) -> AsyncIterator[Monitor]:
    """Give a monitor whose QEMU answers as it likes."""
    ours, theirs = socket.socketpair()
    heard: list[QmpEvent] = []
    made = Monitor("web/a", heard.append, lambda _: None, lost)
    async with answering(theirs, answer):
        try:
            await made.connect(ours)
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def answering(theirs: socket.socket, answer: Answer) -> AsyncIterator[None]:
    """Play a QEMU that answers as it likes, once it has greeted."""
    reader, writer = await asyncio.open_connection(sock=theirs)

    async def serve() -> None:
        writer.write(GREETING)
        while line := await reader.read(1 << 16):  # one at a time, without an end of line
            asked = json.loads(line)
            done = json.dumps({"return": {}, "id": asked.get("id")}).encode() + b"\n"
            writer.write(done if asked["execute"] == "qmp_capabilities" else answer(asked))

    serving = asyncio.create_task(serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        writer.transport.abort()


@pytest.mark.parametrize("name", BREAKING)
async def test_nonsense_ends_the_connection_and_is_told(name: str) -> None:
    lost = asyncio.Event()
    async with monitor(lambda _: BREAKING[name], lost.set) as made, asyncio.timeout(60):
        with pytest.raises(LabdError):
            await made.execute("query-status", deadline=50)
        await lost.wait()
        with pytest.raises(LabdError):
            await made.execute("query-status")


@pytest.mark.parametrize("said", ANSWERS)
async def test_an_answer_that_is_none_is_told(said: dict[str, object]) -> None:
    def answer(asked: dict[str, Any]) -> bytes:
        good = asked["execute"] == "query-status"
        return json.dumps(({"return": {}} if good else said) | {"id": asked["id"]}).encode() + b"\n"

    lost = asyncio.Event()
    async with monitor(answer, lost.set) as made, asyncio.timeout(60):
        with pytest.raises(LabdError, match="stop"):
            await made.execute("stop", deadline=50)
        assert await made.execute("query-status") == {}
    assert not lost.is_set()


async def test_one_that_says_it_quits_and_does_not_is_ended(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    qemu = await spawn(["sleep", "600"])
    vm = Vm(machine_spec(tmp_path), lambda _: None, lambda _: None, VmTimes())
    vm.process = qemu.process
    try:
        async with answering(theirs, lambda a: b'{"return": {}, "id": "%s"}\n' % a["id"].encode()):
            await vm.monitor.connect(ours)
            await vm.kill()
        assert not is_alive(qemu.process)
    finally:
        await qemu.stop(grace=0)
        await vm.close()


async def test_a_fault_of_labd_at_an_event_costs_neither_connection_nor_the_next_event() -> None:
    ours, theirs = socket.socketpair()
    heard: list[object] = []
    lost = asyncio.Event()
    tasks = TaskSupervisor()

    def hear(event: QmpEvent) -> None:
        if event["event"] == "STOP":
            raise ZeroDivisionError("a bug")
        heard.append(event["event"])

    def answer(asked: dict[str, Any]) -> bytes:
        done = json.dumps({"return": {}, "id": asked["id"]}).encode() + b"\n"
        return b'{"event": "STOP"}\n{"event": "RESUME"}\n' + done

    made = Monitor("web/a", hear, lambda _: None, lost.set, tasks)
    async with answering(theirs, answer), asyncio.timeout(60):
        await made.connect(ours)
        assert await made.execute("query-status", deadline=50) == {}
        assert heard == ["RESUME"]
        assert made.connected
        assert not lost.is_set()
        theirs.shutdown(socket.SHUT_RDWR)
        await lost.wait()  # it is watched on
        await made.close()
    (found,) = tasks.failures()
    assert (found.task, found.error) == ("monitor web/a", "ZeroDivisionError: a bug")


async def test_a_flood_of_events_waits_in_the_socket() -> None:
    flood = b'{"event": "STOP"}\n{"event": "RESUME"}\n' * 1000
    ours, theirs = socket.socketpair()
    heard: list[QmpEvent] = []
    made = Monitor("web/a", heard.append, lambda _: None, lambda: None)
    async with answering(theirs, lambda _: flood * 100):
        await made.connect(ours)
        began = time.monotonic()
        with pytest.raises(LabdError):
            await made.execute("stop", deadline=2)
        took = time.monotonic() - began
        await made.close()
    assert 400 <= len(heard) <= 520 + 40 * took


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=700),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=40),
    max_leaves=60,
)
NAMES = ["STOP", "RESUME", "RESET", "SHUTDOWN", "GUEST_PANICKED", "VSERPORT_CHANGE", "WATCHDOG"]


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"event": st.sampled_from(NAMES) | JSON},
        optional={
            "data": st.dictionaries(st.sampled_from(["reason", "id", "open", "info"]), JSON) | JSON,
            "timestamp": st.dictionaries(st.sampled_from(["seconds", "microseconds"]), JSON) | JSON,
        },
    )
)
def test_whatever_an_event_says_is_small_or_nothing(event: dict[str, object]) -> None:
    told = fold("k1", event)
    if told is not None:
        assert len(json.dumps(dict(told.data), allow_nan=False)) < 100_000
        assert 0 <= told.time < 1e13
