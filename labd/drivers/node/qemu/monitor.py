"""QMP, and the only user of qemu.qmp.

Every call has a deadline. A call that misses it is not withdrawn: while it is overdue the machine
is *unresponsive* and further calls fail at once, so that nobody queues behind a hung QEMU; its late
answer is what tells that QEMU has recovered. Nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final, cast

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError
from qemu.qmp.events import EventListener
from qemu.qmp.message import Message
from qemu.qmp.protocol import Runstate, StateError

from labd.host.ratelimit import RateLimiter
from labd.host.supervision import Contained, TaskSupervisor, cancel_all
from labd.model.errors import NodeGone, NodeUnresponsive, QmpRefused

DEADLINE: Final = 5.0  # seconds for one call
_READ_LIMIT = 4 << 20  # bytes of one message

# A second, and at once: of messages, and of events but resets.
_MESSAGES: Final = (2000.0, 4000)
_TOLD: Final = (20.0, 500)

log = logging.getLogger(__name__)
# The library tells at error level what labd expects and reports itself, such as the end of QEMU.
_library_log = logging.getLogger("labd.drivers.node.qemu.qmp")
_library_log.setLevel(logging.CRITICAL)

QmpEvent = Mapping[str, object]
# What the library raises at messages that are none, as a QEMU may send that obeys its guest.
_NONSENSE = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


class _Listener(EventListener):
    """Hands each event on at once. The library's own keeps every event for ever."""

    def __init__(self, heard: Callable[[QmpEvent], None]) -> None:
        super().__init__()
        self._heard = heard

    async def put(self, event: Message) -> None:
        self._heard(cast("QmpEvent", event))


async def _keep_pace(limiter: RateLimiter) -> None:
    """Let one pass, when it is its turn."""
    if (wait := limiter.owe()) > 0:
        await asyncio.sleep(wait)


class _Client(QMPClient):
    """QMPClient without its history of events and its formatting of messages for a silent log.

    It reads no faster than an honest QEMU speaks, so that one that floods fills its own socket:
    each message takes CPU time of labd's, and each event that is told takes memory and a row.
    """

    def __init__(self, heard: Callable[[QmpEvent], None]) -> None:
        super().__init__(None, _READ_LIMIT)
        self._messages, self._told = RateLimiter(*_MESSAGES), RateLimiter(*_TOLD)
        self.logger = _library_log
        self._listeners = [_Listener(heard)]

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except _NONSENSE as error:
            raise QMPError("not a message of QMP") from error

    async def _on_message(self, msg: Message) -> None:
        await _keep_pace(self._messages)
        # A guest may reset itself as often as it likes; `resets` tells those together.
        if msg.get("event") not in {None, "RESET"}:
            await _keep_pace(self._told)
        try:
            await super()._on_message(msg)
        except _NONSENSE as error:
            raise QMPError("not a message of QMP") from error


class Monitor:
    """One machine's QMP connection.

    Args:
        name: `LAB/NODE`, for errors.
        heard: Called in the loop for each QMP event, in order.
        responsive: Called with False when a call misses its deadline, with True on recovery.
        lost: Called when the connection ends without `close`.
        tasks: Counts faults of labd; none of them costs the connection, or leaves it unwatched.
    """

    def __init__(
        self,
        name: str,
        heard: Callable[[QmpEvent], None],
        responsive: Callable[[bool], None],
        lost: Callable[[], None],
        tasks: TaskSupervisor | None = None,
    ) -> None:
        self.name = name
        self._tasks = tasks or TaskSupervisor()
        self._listener = heard
        self._responsive = responsive
        self._lost = lost
        self._client: _Client | None = None
        self._watch: asyncio.Task[None] | None = None
        self._overdue: set[asyncio.Task[object]] = set()
        self._calls: set[asyncio.Task[object]] = set()
        self._hung = False
        self._passing = asyncio.Lock()  # QEMU keeps one unclaimed descriptor only

    @property
    def hung(self) -> bool:
        """A deadline was missed, and no answer has come since."""
        return self._hung

    @property
    def connected(self) -> bool:
        """Calls can be made."""
        return self._client is not None and self._client.runstate is Runstate.RUNNING

    async def connect(
        self, address: socket.socket | Path, deadline: float | None = DEADLINE
    ) -> None:
        """Connect, take the greeting and negotiate.

        Args:
            address: A connected socket, which the monitor owns from now on, or a path.
            deadline: Seconds; with None it waits as long as QEMU is hung, or another client holds
                the socket.

        Raises:
            NodeUnresponsive: No greeting came in time. RESPONSIVE follows a later success.
            NodeGone: QEMU closed the connection, or nobody listens.
        """
        client = _Client(self._heard)
        target = str(address) if isinstance(address, Path) else address
        try:
            async with asyncio.timeout(deadline):
                await client.connect(target)
        except TimeoutError as error:
            raise self.silent(deadline or 0) from error
        except ConnectError as error:
            raise NodeGone(f"QEMU of {self.name} closed its monitor: {error.exc!r}") from error
        self._client = client
        self._watch = self._tasks.supervise(
            f"monitor {self.name}", functools.partial(self._watch_connection, client)
        )
        self._answered()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        deadline: float = DEADLINE,
    ) -> object:
        """Execute a QMP command and return what it returned.

        Raises:
            NodeUnresponsive: No answer within `deadline` seconds, or an earlier call still waits
                for one. The command may take effect later.
            NodeGone: The connection ended before the answer.
            QmpRefused: QEMU said no.
        """
        if self._hung:
            raise self._unresponsive(command, 0)
        client = self._client
        if client is None:
            raise NodeGone(f"QEMU of {self.name} has no monitor: it has ended")
        call: asyncio.Task[object] = asyncio.create_task(client.execute(command, arguments))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        done, _ = await asyncio.wait([call], timeout=deadline)
        if not done:
            self._overdue.add(call)
            self.declare_hung()
            raise self._unresponsive(command, deadline)
        try:
            return call.result()
        except ExecuteError as error:
            raise QmpRefused(
                f"QEMU refused {command} for {self.name}: {error}", command=command
            ) from error
        except (ExecInterruptedError, StateError, QMPError, OSError, EOFError) as error:
            raise NodeGone(f"QEMU of {self.name} ended while asked to {command}") from error
        except _NONSENSE as error:
            raise QmpRefused(
                f"QEMU of {self.name} answered {command} with nonsense: "
                f"`lab restart --force {self.name}`",
                command=command,
            ) from error

    async def hand_over(self, name: str, fd: int) -> None:
        """Give QEMU a descriptor under `name` (QMP `getfd` with SCM_RIGHTS)."""
        await self._pass("getfd", {"fdname": name}, fd)

    async def add_descriptor(self, fd: int, note: str = "") -> int:
        """Give QEMU a descriptor in a set of its own (QMP `add-fd`); return the set's number.

        QEMU opens it as `/dev/fdset/N`, and only with the access mode that it has.
        """
        answer = await self._pass("add-fd", {"opaque": note}, fd)
        return int(cast("Mapping[str, int]", answer)["fdset-id"])

    async def _pass(self, command: str, arguments: Mapping[str, object], fd: int) -> object:
        async with self._passing:
            if self._client is None or self._hung:
                raise self._unresponsive(command, 0)
            self._client.send_fd_scm(fd)
            return await self.execute(command, arguments)

    @contextlib.asynccontextmanager
    async def lent(self, fd: int) -> AsyncIterator[str]:
        """Give QEMU a descriptor for the block; yield the path by which QEMU opens it."""
        number = await self.add_descriptor(fd)
        try:
            yield f"/dev/fdset/{number}"
        finally:
            # A QEMU that ended or hangs meanwhile has its own error on the way.
            with contextlib.suppress(NodeGone, NodeUnresponsive, QmpRefused):
                await self.execute("remove-fd", {"fdset-id": number})

    def declare_hung(self) -> None:
        """Count the machine as unresponsive until something is answered."""
        if not self._hung:
            self._hung = True
            self._responsive(False)

    def silent(self, waited: float) -> NodeUnresponsive:
        """Count the machine as unresponsive, for it has not greeted within seconds `waited`."""
        self.declare_hung()
        return self._unresponsive("the greeting", waited)

    def _heard(self, event: QmpEvent) -> None:
        """Hand an event on; a fault in what is done with it would end the reader of the others."""
        with self._contained():
            self._listener(event)

    def _contained(self) -> Contained:
        return self._tasks.contained(f"monitor {self.name}")

    async def drain(self, timeout: float) -> None:
        """Wait until everything that a dead QEMU had sent is heard, or after `timeout` seconds."""
        if self._watch is not None:
            await asyncio.wait([self._watch], timeout=timeout)

    async def close(self) -> None:
        """Let go of the connection (idempotent). Calls under way end with NodeGone."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await cancel_all([watch])
        client, self._client = self._client, None
        if client is not None:
            with self._contained():
                await _disconnect(client)

    def _ended(self, call: asyncio.Task[object]) -> None:
        self._calls.discard(call)
        late = call in self._overdue
        self._overdue.discard(call)
        if call.cancelled():
            return
        error = call.exception()  # also marks it as seen, for a caller that was cancelled
        if late and (error is None or isinstance(error, ExecuteError)):
            self._answered()

    def _answered(self) -> None:
        if self._hung:
            self._hung = False
            self._responsive(True)

    async def _watch_connection(self, client: _Client) -> None:
        while client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        with self._contained():  # whatever ended the reader: somebody has to connect again
            await _disconnect(client)
        if self._client is client:
            self._client = None
            self._watch = None
            self._lost()

    def _unresponsive(self, command: str, deadline: float) -> NodeUnresponsive:
        waited = f" within {deadline:g} s" if deadline else ", and still owes an earlier answer"
        return NodeUnresponsive(
            f"QEMU of {self.name} did not answer {command}{waited}; "
            f"if it stays so: `lab restart --force {self.name}`",
            command=command,
        )


async def _disconnect(client: _Client) -> None:
    # At the end of QEMU this raises what ended the reader: EOFError, OSError, or QMPError.
    # A hung QEMU does not drain its socket: closing must not wait for that.
    with contextlib.suppress(QMPError, EOFError, OSError):
        ending = asyncio.ensure_future(client.disconnect())
        ending.add_done_callback(lambda done: done.cancelled() or done.exception())  # is seen
        done, _ = await asyncio.wait([ending], timeout=0.5)
        if not done and client._writer is not None:
            client._writer.transport.abort()
        await ending
