"""The guest agent (qemu-ga) over its virtio-serial port; QGA protocol, qga/qapi-schema.json.

What it answers comes from the guest and is not trusted: a line is bounded, an answer of the wrong
shape is an error, and every wait has an end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from labd.host.backoff import Backoff
from labd.model.errors import GuestAgentAbsent, GuestFailed
from labd.model.machine import ExecResult

OUTPUT_LIMIT: Final = 1 << 20  # bytes of stdout, and of stderr, that are kept
_LINE_LIMIT = 4 << 20  # bytes of one answer: two outputs of the limit in base64, and a frame
_SYNC_TIMEOUT = 2.0  # seconds
# What may stand before the answer to a sync: one answer that came too late, or part of it.
_STALE_BYTES, _STALE_LINES = 2 * _LINE_LIMIT, 64
_MOST_PARTS = 20_000  # of one answer; a text of brackets takes 25 times its size when it is read
_STATUSES = range(-(1 << 31), 1 << 32)
_FIRST_POLL, _LAST_POLL = 0.01, 0.5  # seconds between looks at a running command
# What may go together with its sync. An agent that hangs does later what it was sent, when labd has
# long said that it failed: these do no harm then, nor when they are done twice (a clock that is set
# late is nearer the truth than that of a frozen guest). A command to run or a file to write would,
# so all others are sent only to an agent that has just answered.
_HARMLESS: Final = frozenset(
    {
        "guest-exec-status",
        "guest-network-get-interfaces",
        "guest-ping",
        "guest-set-time",
        "guest-ssh-add-authorized-keys",
    }
)


class GuestAgent:
    """One guest's agent.

    Args:
        path: QEMU's socket for the agent's port.
        name: `LAB/NODE`, for errors.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name = name
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._open = False

    @property
    def open(self) -> bool:
        """Whether the agent has its end of the port open (VSERPORT_CHANGE)."""
        return self._open

    @open.setter
    def open(self, value: bool) -> None:
        if self._open and not value:
            self._drop()  # who waits for an answer need not wait longer
        self._open = value

    async def ping(self, timeout: float = _SYNC_TIMEOUT) -> bool:
        """True if the agent answers."""
        if not self.open:
            return False
        try:
            await self.call("guest-ping", {}, timeout)
        except GuestFailed:
            return False
        return True

    async def shut_down(self, timeout: float = _SYNC_TIMEOUT) -> bool:
        """Ask for a power-off (`guest-shutdown`); tell whether the agent was there to hear it."""
        if not self.open:
            return False
        try:
            async with self._lock, asyncio.timeout(timeout):
                # Success is never answered: the guest goes down.
                await self._send("guest-shutdown", {"mode": "powerdown"})
        except (TimeoutError, OSError, asyncio.IncompleteReadError, GuestFailed):
            self._drop()
            return False
        return True

    async def execute(self, argv: Sequence[str], timeout: float, stdin: bytes = b"") -> ExecResult:
        """Run a command in the guest and wait for its end.

        Args:
            argv: Program and arguments, as the guest finds them.
            timeout: Seconds in all.
            stdin: What it reads from its standard input.

        Raises:
            GuestFailed: No agent, no such program, or it took too long (it may run on).
        """
        if not argv:
            raise GuestFailed(f"no command to run in {self.name}: name a program")
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        arguments: dict[str, object] = {"path": argv[0], "capture-output": True}
        if len(argv) > 1:
            arguments["arg"] = list(argv[1:])
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        started = await self.call("guest-exec", arguments, timeout)
        pid = started.get("pid") if isinstance(started, Mapping) else None
        if not isinstance(pid, int):
            raise self.nonsense("guest-exec")
        backoff = Backoff(_FIRST_POLL, _LAST_POLL)
        while (left := end - loop.time()) > 0:
            status = await self.call("guest-exec-status", {"pid": pid}, left)
            if not isinstance(status, Mapping):
                raise self.nonsense("guest-exec-status")
            if status.get("exited"):
                return self._result(status)
            await asyncio.sleep(min(backoff.pause(), max(0.0, end - loop.time())))
        raise GuestFailed(
            f"{argv[0][:80]!r} in {self.name} did not end within {timeout:g} s; "
            "it may still run in the guest"
        )

    async def set_clock(self, timeout: float = _SYNC_TIMEOUT) -> bool:
        """Set the guest's clock to the host's (`guest-set-time`); tell whether an agent was there.

        Where the agent cannot (it wants hwclock(8)), date(1) does, to the second.

        Raises:
            GuestFailed: Neither did.
        """
        if not self.open:
            return False
        try:
            await self.call("guest-set-time", {"time": time.time_ns()}, timeout)
        except GuestFailed:
            done = await self.execute(["date", "-u", "-s", f"@{round(time.time())}"], timeout)
            if done.status != 0:
                raise
        return True

    async def authorize(
        self, keys: Mapping[str, Sequence[str]], timeout: float = _SYNC_TIMEOUT
    ) -> bool:
        """Let in by ssh who has these keys of a user, and nobody else; False without an agent.

        Raises:
            GuestFailed: The agent cannot (`guest-ssh-add-authorized-keys`); the users before that
                one are done.
        """
        if not self.open:
            return False
        for user, of_user in keys.items():
            arguments = {"username": user, "keys": list(of_user), "reset": True}
            await self.call("guest-ssh-add-authorized-keys", arguments, timeout)
        return True

    async def interfaces(self, timeout: float = _SYNC_TIMEOUT) -> object:
        """Return what the guest tells of its interfaces (`guest-network-get-interfaces`), unread.

        Raises:
            GuestFailed: No agent, or no answer within `timeout` seconds.
        """
        return await self.call("guest-network-get-interfaces", {}, timeout)

    def close(self) -> None:
        """Let go of the socket (idempotent)."""
        self._drop()

    async def call(self, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        """Return what the agent answers to one command, unread: a guest may answer anything.

        Args:
            command: As in qga/qapi-schema.json.
            arguments: Of the command.
            timeout: Seconds.

        Raises:
            GuestAgentAbsent: No agent.
            GuestFailed: It refused, or did not answer in time.
        """
        if not self.open:
            raise self._absent()
        try:
            async with self._lock, asyncio.timeout(timeout):
                await self._send(command, arguments)
                answer = await self._line()
        except TimeoutError as error:
            self._drop()
            raise GuestFailed(
                f"the guest agent of {self.name} did not answer {command} within {timeout:.3g} s"
            ) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            self._drop()
            raise self._absent() from error
        except asyncio.CancelledError:
            self._drop()  # a late answer must not be taken for that to the next command
            raise
        if "error" in answer:
            problem = answer["error"]
            text = problem.get("desc") if isinstance(problem, Mapping) else problem
            said = str(text).removeprefix("Guest agent command failed, error was ").strip("'")
            shown = "".join(c if c.isprintable() else " " for c in said[:300])
            raise GuestFailed(f"the guest agent of {self.name} refused {command}: {shown}")
        return answer.get("return")

    async def _send(self, command: str, arguments: Mapping[str, object]) -> None:
        """Connect if need be, send a command, and discard what was meant for somebody before us.

        A sync and a harmless command go together: each message wakes the guest, and one of many
        guests that are woken for the first time takes long to answer.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(
                str(self._path), limit=_LINE_LIMIT
            )
        writer = self._writer
        token = secrets.randbits(31)
        # 0xff makes the agent drop a half-sent command, and marks the answer to this one.
        sync = b"\xff" + _request("guest-sync-delimited", {"id": token})
        request = _request(command, arguments)
        together = command in _HARMLESS
        writer.write(sync + request if together else sync)
        await self._synced(token)
        if not together:
            writer.write(request)

    async def _synced(self, token: int) -> None:
        """Wait until the agent has answered a sync."""
        stale = 0
        for _ in range(_STALE_LINES):
            raw = await self._raw()
            answer = _read(raw.rpartition(b"\xff")[2])
            if answer is not None and answer.get("return") == token:
                return
            stale += len(raw)
            if stale > _STALE_BYTES:
                break
        self._drop()
        raise GuestFailed(
            f"the guest agent of {self.name} sends what nobody asked for: restart it in the guest"
        )

    async def _line(self) -> Mapping[str, object]:
        answer = _read(await self._raw())
        if answer is None:
            self._drop()
            raise self.nonsense("a command")
        return answer

    async def _raw(self) -> bytes:
        if self._reader is None:  # the port was closed when the last line had come
            raise asyncio.IncompleteReadError(b"", None)
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            self._drop()
            raise GuestFailed(
                f"the guest agent of {self.name} sent more than {_LINE_LIMIT >> 20} MiB at once: "
                "have the command write less, or into a file"
            ) from error

    def _result(self, status: Mapping[str, object]) -> ExecResult:
        code, number = status.get("exitcode"), status.get("signal")
        if isinstance(number, int) and not isinstance(number, bool):
            ended = -number
        elif isinstance(code, int) and not isinstance(code, bool):
            ended = code
        else:
            raise self.nonsense("guest-exec-status")
        if ended not in _STATUSES:
            raise self.nonsense("guest-exec-status")
        out, err = (self.decode(status.get(f"{name}-data")) for name in ("out", "err"))
        cut = status.get("out-truncated") or status.get("err-truncated")
        return ExecResult(
            status=ended,
            stdout=out[:OUTPUT_LIMIT],
            stderr=err[:OUTPUT_LIMIT],
            truncated=bool(cut) or max(len(out), len(err)) > OUTPUT_LIMIT,
        )

    def decode(self, text: object) -> bytes:
        """Return the bytes of base64 that the guest sent.

        Raises:
            GuestFailed: It is none.
        """
        try:
            return base64.b64decode(str(text or ""), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.nonsense("a command") from error

    def _drop(self) -> None:
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                writer.transport.abort()

    def _absent(self) -> GuestAgentAbsent:
        return GuestAgentAbsent(
            f"the guest agent of {self.name} is not there: "
            "the image needs qemu-guest-agent, and the guest must have started it"
        )

    def nonsense(self, command: str) -> GuestFailed:
        """Return the error for an answer of the wrong shape."""
        return GuestFailed(f"the guest agent of {self.name} answered {command} with nonsense")


def _request(command: str, arguments: Mapping[str, object]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def _read(raw: bytes) -> Mapping[str, object] | None:
    """Return an answer; None for what is none, or would take much more memory than its text."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_PARTS:
        return None
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
