"""The guest agent's client, against agents that behave and agents that do not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from labd.drivers.node.qemu.agent import OUTPUT_LIMIT, GuestAgent
from labd.model.errors import GuestAgentAbsent, GuestFailed
from tests.agents import talking

Answer = dict[str, Any] | bytes | None


class Guest:
    """Plays qemu-ga behind QEMU's socket."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = lambda _: {"return": {}}
        self.greeting = b""
        self.awake = asyncio.Event()
        self.awake.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        await self.awake.wait()
        while line := await reader.readline():
            request = json.loads(line.rpartition(b"\xff")[2])
            if request["execute"] == "guest-sync-delimited":
                reply: Answer = {"return": request["arguments"]["id"]}
                writer.write(b"\xff")
            else:
                self.asked.append(request)
                reply = self.answer(request)
            if isinstance(reply, bytes):
                writer.write(reply)
            elif reply is not None:
                writer.write(json.dumps(reply).encode() + b"\n")


@pytest.fixture
async def guest() -> AsyncIterator[tuple[Guest, GuestAgent]]:
    played = Guest()
    async with talking(played.serve) as agent:
        yield played, agent


async def test_ping(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    assert await agent.ping()
    agent.open = False
    assert not await agent.ping()
    assert len(played.asked) == 1


async def test_what_was_meant_for_somebody_before_is_dropped(
    guest: tuple[Guest, GuestAgent],
) -> None:
    played, agent = guest
    played.greeting = b'{"return": 17}\nhalf an ans\n'
    assert await agent.ping()


async def test_a_silent_agent_has_a_deadline(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    played.answer = lambda _: None
    assert not await agent.ping(timeout=0.1)
    with pytest.raises(GuestFailed, match="did not answer guest-exec within 0.1 s"):
        await agent.execute(["true"], 0.1)
    played.answer = lambda _: {"return": {}}
    assert await agent.ping()  # and the late answers confuse nothing


async def test_an_agent_that_hung_does_nothing_that_was_given_up(
    guest: tuple[Guest, GuestAgent],
) -> None:
    played, agent = guest
    played.awake.clear()
    with pytest.raises(GuestFailed, match="did not answer guest-exec within 0.1 s"):
        await agent.execute(["rm", "x"], 0.1)
    assert not await agent.shut_down(0.1)
    with pytest.raises(GuestFailed, match="did not answer guest-file-open within 0.1 s"):
        await agent.call("guest-file-open", {"path": "/x", "mode": "w"}, 0.1)
    assert not await agent.ping(0.1)  # goes with its sync, so what was sent is read later
    played.awake.set()
    async with asyncio.timeout(5):
        while not played.asked:
            await asyncio.sleep(0.01)
    assert await agent.ping()
    assert [request["execute"] for request in played.asked] == ["guest-ping", "guest-ping"]


async def test_a_command_runs_to_its_end(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    looks = iter([False, False, True])

    def answer(request: dict[str, Any]) -> Answer:
        if request["execute"] == "guest-exec":
            return {"return": {"pid": 7}}
        if not next(looks):
            return {"return": {"exited": False}}
        return {
            "return": {
                "exited": True,
                "exitcode": 3,
                "out-data": base64.b64encode(b"out").decode(),
                "err-data": base64.b64encode(b"e" * (OUTPUT_LIMIT + 5)).decode(),
            }
        }

    played.answer = answer
    result = await agent.execute(["sh", "-c", "exit 3"], 5)
    assert (result.status, result.stdout, len(result.stderr)) == (3, b"out", OUTPUT_LIMIT)
    assert played.asked[0]["arguments"] == {
        "path": "sh",
        "arg": ["-c", "exit 3"],
        "capture-output": True,
    }


async def test_a_command_that_does_not_end(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    played.answer = lambda r: {
        "return": {"pid": 7} if r["execute"] == "guest-exec" else {"exited": False}
    }
    with pytest.raises(GuestFailed, match="'sleep' in web/server did not end within 0.2 s"):
        await agent.execute(["sleep", "9"], 0.2)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"error": {"class": "x", "desc": "no such file"}}, "refused guest-exec: no such file"),
        (
            {"error": {"desc": "Guest agent command failed, error was 'no “x” here'"}},
            "refused guest-exec: no “x” here",
        ),
        ({"error": "odd"}, "refused guest-exec: odd"),
        ({"return": {}}, "answered guest-exec with nonsense"),
        ({"return": {"pid": "7"}}, "answered guest-exec with nonsense"),
        (b"[1, 2]\n", "answered a command with nonsense"),
        (b"\x00\x01\n", "answered a command with nonsense"),
        (b"[" * 100_000 + b"\n", "answered a command with nonsense"),
        (b'"' + b"x" * (5 << 20) + b'"\n', "sent more than 4 MiB at once"),
    ],
)
async def test_answers_are_not_trusted(
    guest: tuple[Guest, GuestAgent], reply: Answer, message: str
) -> None:
    played, agent = guest
    played.answer = lambda _: reply
    with pytest.raises(GuestFailed, match=message):
        await agent.execute(["true"], 5)


@pytest.mark.parametrize(
    "status",
    [
        {"exited": True},
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": True},
        {"exited": True, "exitcode": 0, "out-data": "%%%="},
    ],
)
async def test_ends_are_not_trusted(
    guest: tuple[Guest, GuestAgent], status: dict[str, Any]
) -> None:
    played, agent = guest
    played.answer = lambda r: {"return": {"pid": 7} if r["execute"] == "guest-exec" else status}
    with pytest.raises(GuestFailed, match="with nonsense"):
        await agent.execute(["true"], 5)


async def test_a_signal_is_a_negative_status(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    played.answer = lambda r: {
        "return": {"pid": 7} if r["execute"] == "guest-exec" else {"exited": True, "signal": 9}
    }
    assert (await agent.execute(["true"], 5)).status == -9


async def test_shut_down_is_not_answered(guest: tuple[Guest, GuestAgent]) -> None:
    played, agent = guest
    played.answer = lambda _: None
    assert await agent.shut_down()
    await asyncio.sleep(0.05)
    assert played.asked == [{"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}]


async def test_a_shut_down_while_the_port_closes() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()

    async with talking(serve) as agent:
        assert not await agent.shut_down()


async def test_a_port_that_closes_at_any_moment_is_no_agent() -> None:
    for turns in range(8):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = json.loads((await reader.readline()).rpartition(b"\xff")[2])
            token = request["arguments"]["id"]
            writer.write(b"\xff" + json.dumps({"return": token}).encode() + b"\n")
            for _ in range(turns):  # noqa: B023 - it ends before the next begins
                await asyncio.sleep(0)
            agent.open = False

        async with talking(serve) as agent:
            with pytest.raises(GuestAgentAbsent):
                await agent.execute(["true"], 5)


async def test_no_agent(tmp_path: Path) -> None:
    agent = GuestAgent(tmp_path / "none.sock", "web/server")
    assert not await agent.ping()
    assert not await agent.shut_down()
    with pytest.raises(GuestFailed, match="is not there: the image needs qemu-guest-agent"):
        await agent.execute(["true"], 1)
    agent.open = True
    with pytest.raises(GuestFailed, match="is not there"):
        await agent.execute(["true"], 1)
    with pytest.raises(GuestFailed, match="no command to run in web/server"):
        await agent.execute([], 1)
