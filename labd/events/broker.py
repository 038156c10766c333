"""The managed broker: mosquitto as a supervised child of the daemon.

    broker = ManagedBroker(run / "broker")
    await broker.start()
    stack.push_async_callback(broker.stop)
    tasks.supervise("broker", broker.run)

It listens on a unix socket for labd and on loopback TCP for plugins, runs as the user `mosquitto`,
and dies with the daemon. Paths in its configuration are relative to its working folder, so that it
needs no right to traverse what is above.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import pwd
import random
import secrets
import signal
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import ParamSpec

from labd.events.accounts import (
    CONFIG,
    OWNER,
    PROBE,
    BrokerUser,
    acl_text,
    check_user,
    new_password,
    password_line,
)
from labd.events.mqtt import BrokerAddress, reachable
from labd.host import identity
from labd.host.backoff import Backoff
from labd.host.spawn import PIPE, Child, Jail, spawn
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.host.threads import quick
from labd.model.errors import CommandFailed, ConfigError, LabdError, StorageFailed
from labd.model.process import ProcessId

log = logging.getLogger(__name__)

_PORTS = range(20_000, 32_000)  # below the kernel's ephemeral ports, which outgoing calls take
_PORT_TRIES = 20
_SOCKET_PATH = 107  # bytes (unix(7))
_READY = 5.0  # seconds until it must accept connections; it takes 0.02
_RELOAD = 3.0  # seconds until it must know new users; it takes 0.1
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_FIRST_DELAY, _LAST_DELAY = 0.05, 5.0  # seconds between two starts
_STEADY = 10.0  # seconds of life after which the back-off begins anew


_P = ParamSpec("_P")


def _storage_errors(function: Callable[_P, None]) -> Callable[_P, None]:
    """Make `StorageFailed` of what the file system refuses."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except OSError as error:
            raise StorageFailed(
                f"the broker's files cannot be written: {error}; "
                "look at the free space and the permissions"
            ) from error

    return guarded


class _PortTaken(CommandFailed):
    """Another process listens on the port already."""


class ManagedBroker:
    """One mosquitto. `start`, then `run` beside the rest, and at the end `stop`.

    Attributes:
        folder: Its files: root's, readable by its user; the socket is in `s/`.
        port: TCP port on 127.0.0.1, known after `start`; it stays over restarts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tcp_port: int = 0,
        user: str = "mosquitto",
        tasks: TaskSupervisor | None = None,
    ) -> None:
        """Plan a broker; nothing is started.

        Args:
            folder: Made when needed; the path of the socket in it must be under 107 bytes.
            tcp_port: 0 for one that is free.
            user: System user that it runs as, when labd is root.
            tasks: Runs what reads its words.
        """
        self.folder = folder
        self.port = tcp_port
        self._chosen = tcp_port == 0
        self._user = user
        self._tasks = tasks or TaskSupervisor()
        self._password = new_password()
        self._users: tuple[BrokerUser, ...] = ()
        self._lines: dict[tuple[str, str], str] = {}
        self._probe = new_password()
        self._child: Child | None = None
        self._reader: asyncio.Task[None] | None = None
        self._words: deque[str] = deque(maxlen=20)
        self._lock = asyncio.Lock()

    @property
    def address(self) -> BrokerAddress:
        """Where labd itself goes: the unix socket, as the one user that may write."""
        return BrokerAddress(
            socket=self.folder / "s" / "mqtt.sock", username=OWNER, password=self._password
        )

    @property
    def plugin_address(self) -> BrokerAddress:
        """Where plugins go, without credentials: those are their own."""
        return BrokerAddress(host="127.0.0.1", port=self.port)

    @property
    def pid(self) -> int | None:
        """The pid of mosquitto while it runs."""
        return self._child.pid if self._child is not None and self._child.status is None else None

    async def start(self) -> None:
        """End what a crashed daemon left, start mosquitto, and return when it lets labd in.

        Raises:
            ConfigError: There is no such system user, the configured port is taken, or the path of
                the socket is too long.
            CommandFailed: It is not installed, or does not start; with its last words. No process
                is left.
            StorageFailed: Its files cannot be written.
        """
        path = self.folder / "s" / "mqtt.sock"
        if len(os.fsencode(path)) > _SOCKET_PATH:
            raise ConfigError(
                f"the path {path} is longer than the {_SOCKET_PATH} bytes that a unix socket may "
                "have: choose a shorter --root"
            )
        owner = self._owner()
        await quick(self._make_folder, owner)
        await self._end_stale()
        for _ in range(_PORT_TRIES):
            if self._chosen:
                # Taken or not is only known by binding, which mosquitto does itself: try, and
                # choose again when it says no.
                self.port = random.choice(_PORTS)  # noqa: S311 - no secret
            try:
                await self._launch(owner)
            except _PortTaken as error:
                if not self._chosen:
                    raise ConfigError(
                        f"the broker cannot listen on 127.0.0.1:{self.port}: another program "
                        "does; set broker.tcp_port to another port, or to 0"
                    ) from error
                continue
            return
        raise CommandFailed(f"mosquitto found none of {_PORT_TRIES} random ports free; try again")

    async def run(self) -> None:
        """Start it again whenever it ends, with back-off, for ever."""
        backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, steady=_STEADY)
        while True:
            backoff.begin()
            if self._child is not None:
                status = await self._child.wait()
                log.warning("the broker ended with status %s; starting it again", status)
            await asyncio.sleep(backoff.pause())
            try:
                # Plugins know the port: it is never chosen anew.
                await self._launch(self._owner())
            except LabdError as error:
                log.warning("the broker does not start: %s; trying again", error)

    async def stop(self) -> None:
        """End it and remove its files (idempotent). Cancel `run` first."""
        await self._end_child()
        await quick(self._remove_files)

    async def set_users(self, users: Iterable[BrokerUser]) -> None:
        """Let exactly these users in besides labd; return when the broker knows them.

        Connections of users that are no more, or have another password, are ended by mosquitto.
        While it is down this is remembered, and counts at its next start.

        Raises:
            InputError: A name or filter is not possible; nothing was changed.
            CommandFailed: It does not answer.
            StorageFailed: Its files cannot be written; it goes on with the users that it has.
        """
        users = tuple(users)
        for user in users:
            check_user(user)
        async with self._lock:
            self._users = users
            child = self._child
            if child is None or child.status is not None:
                return
            self._probe = new_password()
            await quick(self._write_accounts, self._owner())
            if child.send_signal(signal.SIGHUP):
                await self._await_reload(child)

    async def _await_reload(self, child: Child) -> None:
        address = BrokerAddress(socket=self.address.socket, username=PROBE, password=self._probe)
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELOAD):
                while child.status is None:
                    if await reachable(address, f"probe-{secrets.token_hex(4)}"):
                        return
                    await asyncio.sleep(0.01)
                return
        raise CommandFailed(
            f"the broker (pid {child.pid}) did not read its new users within {_RELOAD:g} s; "
            "end it, and labd starts it again"
        )

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None  # as the user of labd: there is no right to become another
        try:
            entry = pwd.getpwnam(self._user)
        except KeyError as error:
            raise ConfigError(
                f"there is no system user {self._user} for the broker; "
                "install it: apt-get install mosquitto"
            ) from error
        return entry.pw_uid, entry.pw_gid

    async def _launch(self, owner: tuple[int, int] | None) -> None:
        # Under the lock to its end: SIGHUP would kill a mosquitto that does not expect it yet.
        async with self._lock:
            await self._end_child()
            await quick(self._write_config, owner)
            await quick(self._write_accounts, owner)
            self._words.clear()
            jail = None
            if owner is not None:
                # Its own network namespace would hide the loopback port from the plugins.
                jail = Jail(uid=owner[0], gid=owner[1], new_netns=False, pdeathsig="KILL")
            child = await spawn(
                ["mosquitto", "-c", "mosquitto.conf"],
                cwd=self.folder,
                stderr=PIPE,
                jail=jail,
                umask=0o077,
            )
            self._child = child
            self._reader = self._tasks.supervise(
                "broker-log", functools.partial(self._read_words, child)
            )
            try:
                await quick(self._record, child.process)
                await self._await_ready(child)
            except BaseException:
                await self._end_child()
                raise

    async def _await_ready(self, child: Child) -> None:
        socket = self.folder / "s" / "mqtt.sock"
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY):
                while child.status is None:
                    # The answer to CONNECT comes from its loop, after all listeners are bound.
                    identifier = f"start-{secrets.token_hex(4)}"
                    if socket.exists() and await reachable(self.address, identifier):
                        return
                    await asyncio.sleep(0.005)
        if self._reader is not None and child.status is not None:
            await self._reader
        words = "; ".join(self._words) or "it said nothing"
        if "already in use" in words:
            raise _PortTaken(f"port {self.port} is taken")
        raise CommandFailed(
            f"mosquitto did not start (status {child.status}): {words}; "
            "see the log, or name an own broker by broker.url"
        )

    async def _read_words(self, child: Child) -> None:
        if child.stderr is None:
            return
        while line := await child.stderr.readline():
            text = line.decode(errors="replace").strip()[:500]
            self._words.append(text)
            log.log(logging.WARNING if "rror" in text else logging.DEBUG, "mosquitto: %s", text)

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop(_GRACE)
        reader, self._reader = self._reader, None
        if reader is not None:
            await cancel_all([reader])

    async def _end_stale(self) -> None:
        try:
            text = await quick((self.folder / "process.json").read_text)
            process = ProcessId(**json.loads(text))
        except (OSError, ValueError, TypeError):
            return  # none, or half written: then it had the parent-death signal only
        await identity.end(process, grace=_GRACE)

    # files; all of these run in a thread

    @_storage_errors
    def _make_folder(self, owner: tuple[int, int] | None) -> None:
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        sockets = self.folder / "s"
        sockets.mkdir(mode=0o700, exist_ok=True)
        if owner is not None:
            os.chown(self.folder, 0, owner[1])
            os.chown(sockets, *owner)

    @_storage_errors
    def _write_config(self, owner: tuple[int, int] | None) -> None:
        (self.folder / "s" / "mqtt.sock").unlink(missing_ok=True)
        self._write("mosquitto.conf", CONFIG.format(port=self.port), owner)

    def _write_accounts(self, owner: tuple[int, int] | None) -> None:
        secrets_ = {OWNER: self._password, PROBE: self._probe}
        secrets_.update({user.name: user.password for user in self._users})
        # A line that was written before stays as it is.
        self._lines = {
            pair: self._lines.get(pair) or password_line(*pair) for pair in secrets_.items()
        }
        self._write("passwd", "".join(self._lines.values()), owner)
        self._write("acl", acl_text(self._users), owner)

    def _record(self, process: ProcessId) -> None:
        self._write("process.json", json.dumps(asdict(process)), None)

    @_storage_errors
    def _write(self, name: str, text: str, owner: tuple[int, int] | None) -> None:
        """Replace a file whole; its mode is 0640 (root, group of mosquitto)."""
        path = self.folder / f"{name}.new"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            if owner is not None:
                os.fchown(fd, 0, owner[1])
                os.fchmod(fd, 0o640)
            file.write(text)
        path.replace(self.folder / name)

    @_storage_errors
    def _remove_files(self) -> None:
        for name in ("mosquitto.conf", "passwd", "acl", "process.json", "s/mqtt.sock"):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder / "s", self.folder):
            with suppress(OSError):  # somebody else's file is in it
                folder.rmdir()
