"""What a guest says by its agent, as an attacker says it: any bytes, too many, or without end."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labd.drivers.node.qemu.agent import OUTPUT_LIMIT
from labd.drivers.node.qemu.interfaces import read as read_interfaces
from labd.model.errors import GuestFailed
from labd.model.machine import ExecResult
from tests.agents import talking

MIB = 1 << 20
Reply = Callable[[dict[str, Any]], Iterator[bytes]]


class Agent:
    """Plays a hostile qemu-ga; `reply` yields what it sends to each request."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            for data in self.reply(json.loads(line.rpartition(b"\xff")[2])):
                writer.write(data)
                self.sent += len(data)
                await writer.drain()


def synced(request: dict[str, Any]) -> bytes | None:
    """Return the right answer to a sync; None for anything else."""
    if request["execute"] != "guest-sync-delimited":
        return None
    return b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["return", "error", "desc", "pid", "exited", "exitcode", "signal", "out-data", "count",
             "out-truncated", "buf-b64", "eof", "name", "hardware-address", "ip-addresses",
             "ip-address"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
ANSWERS = st.lists(
    JSON.map(lambda value: json.dumps(value).encode() + b"\n")
    | st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda data: data + b"\n")
    | st.sampled_from([b"\xff", b"\n", b"\xff\n", b'{"return": {"pid": 7}}\n'])
    | st.just(b'{"return": {"exited": true, "exitcode": ' + b"9" * 4000 + b"}}\n"),
    max_size=4,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.booleans())
async def test_whatever_an_agent_answers_is_a_result_or_one_line(
    answers: list[list[bytes]], honest: bool
) -> None:
    """Never another error, never a wait beyond the deadline, and never more than is let in."""
    left = list(answers)

    def reply(request: dict[str, Any]) -> Iterator[bytes]:
        right = synced(request)
        if right is not None and honest:
            yield right
        elif left:
            yield from left.pop(0)

    async with talking(Agent(reply).serve) as agent:
        asks: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: agent.execute(["true"], 0.05),
            lambda: agent.interfaces(0.05),
            lambda: agent.ping(0.05),
        )
        for ask in asks:
            try:
                async with asyncio.timeout(20):
                    found = await ask()
            except GuestFailed as error:
                assert error.message.isprintable()
                assert len(error.message) < 600
                continue
            if isinstance(found, ExecResult):
                assert -(1 << 31) <= found.status < 1 << 32
                assert len(found.stdout) <= OUTPUT_LIMIT


@settings(max_examples=80, deadline=None)
@given(JSON | st.lists(st.fixed_dictionaries({
    "name": st.text(), "hardware-address": st.just("02:00:00:00:00:01"),
    "ip-addresses": st.lists(st.fixed_dictionaries({"ip-address": st.text() | st.sampled_from(
        ["10.0.0.1", "2001:db8::1%x\nevil", "::1", "fe80::1%eth0"])}))})))  # fmt: skip
def test_what_a_guest_says_of_its_interfaces_is_plain(answer: object) -> None:
    for found in read_interfaces(answer):
        assert found.name.isprintable()
        assert len(found.name) <= 32
        assert all(set(text) <= set("0123456789abcdef.:") for text in found.addresses)


def _lines(data: bytes) -> Iterator[bytes]:
    while True:
        yield data


FLOODS: dict[str, tuple[Callable[[], Iterator[bytes]], str]] = {
    "lines before a sync": (lambda: _lines(b"{}\n" * 20_000), "sends what nobody asked for"),
    "long lines before a sync": (
        lambda: _lines(b"x" * (3 * MIB) + b"\n"),
        "sends what nobody asked for",
    ),
    "a line without an end": (lambda: _lines(b"x" * MIB), "sent more than 4 MiB at once"),
    "brackets": (lambda: _lines(b"[" + b"[]," * MIB + b"[]]\n"), "sends what nobody asked for"),
}


@pytest.mark.parametrize("name", sorted(FLOODS))
async def test_an_agent_that_never_ends_costs_little(name: str) -> None:
    """The call has ten minutes, and yet ends when it has seen enough."""
    flood, says = FLOODS[name]
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    played = Agent(lambda _: flood())
    async with talking(played.serve) as agent:
        with pytest.raises(GuestFailed, match=says):
            await agent.execute(["true"], 600)
        assert played.sent < 64 * MIB
    assert time.process_time() - begin < 10  # of CPU, the flood's own included
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 << 10  # KiB


async def test_an_answer_that_would_swell_is_none() -> None:
    """Four MiB of brackets would be a hundred as objects."""

    def reply(request: dict[str, Any]) -> Iterator[bytes]:
        yield synced(request) or b'{"return": [' + b"[]," * MIB + b"[]]}\n"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with talking(Agent(reply).serve) as agent:
        with pytest.raises(GuestFailed, match="answered a command with nonsense"):
            await agent.interfaces(20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10  # KiB


async def test_the_largest_honest_answer_passes() -> None:
    data = base64.b64encode(b"\0" * OUTPUT_LIMIT).decode()
    end = {"exited": True, "exitcode": 0, "out-data": data, "err-data": data}

    def reply(request: dict[str, Any]) -> Iterator[bytes]:
        answer = {"pid": 7} if request["execute"] == "guest-exec" else end
        yield synced(request) or json.dumps({"return": answer}).encode() + b"\n"

    async with talking(Agent(reply).serve) as agent:
        done = await agent.execute(["true"], 60)
    assert (len(done.stdout), len(done.stderr)) == (OUTPUT_LIMIT, OUTPUT_LIMIT)


async def test_one_who_floods_between_calls_is_not_read() -> None:
    """What nobody waits for stays with QEMU, and so with the guest, beyond some MiB."""

    def reply(request: dict[str, Any]) -> Iterator[bytes]:
        right = synced(request)
        if right is not None:
            yield right
            return
        yield b'{"return": {}}\n'
        yield from _lines(b"x" * 65536)

    played = Agent(reply)
    async with talking(played.serve) as agent:
        assert await agent.ping(20)
        before = -1
        async with asyncio.timeout(30):
            while played.sent > before:  # until it can send no more
                before = played.sent
                await asyncio.sleep(0.3)
        assert MIB < played.sent < 12 * MIB
