"""The daemon's side: one supervised process a plugin (`core.ports.PluginRunner`).

A plugin has a user id, a token, a broker user and a folder of its own. It ends with the daemon. One
that crashes is started again with back-off, and harms nobody. What it needs of closed folders (its
own code, labd's socket) it reaches through descriptors, as `/proc/self/fd/N`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labd.events.accounts import BrokerUser, new_password
from labd.events.messages import Topics
from labd.events.mqtt import BrokerAddress
from labd.features.plugins.leftovers import end_leftovers
from labd.features.plugins.manifest import Manifest, discover
from labd.host.backoff import Backoff
from labd.host.spawn import PIPE, STDOUT, Child, Jail, spawn
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.host.threads import quick
from labd.model.errors import ConfigError, LabdError, NotFound
from labd.model.names import did_you_mean
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.states import PluginState
from labd.plugin import files
from labd.plugin.folders import open_folder

log = logging.getLogger(__name__)

_FIRST_DELAY, _LAST_DELAY = 1.0, 60.0  # seconds between two starts
_STEADY = 60.0  # seconds of life after which the back-off begins anew
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_LAST_WORDS = 2.0  # seconds for what is still in the pipe of a process that has ended
_UIDS = 64  # a plugin keeps a user id that is no further from the wanted one

SetUsers = Callable[[Sequence[BrokerUser]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorConfig:
    """Where plugins find labd and the broker.

    Attributes:
        folders: Where plugins are installed.
        state: A folder per plugin, by name.
        socket: The API's socket for plugins.
        host_id: For topics.
        broker: Where labd's own broker listens; its credentials are not given on.
        set_users: Tells the broker its users; None for a broker that is not labd's, where labd
            cannot make users, so that plugins hear events by the API alone.
        python: The interpreter of plugins in Python.
        tasks: Runs what keeps them.
    """

    folders: tuple[Path, ...]
    state: Path
    socket: Path
    host_id: str
    broker: BrokerAddress
    set_users: SetUsers | None
    python: str = sys.executable
    tasks: TaskSupervisor = field(default_factory=TaskSupervisor)


@dataclass
class _Running:
    manifest: Manifest
    settings: Mapping[str, object]
    uid: int
    password: str
    since: int | None = None
    token_hash: str = ""  # of the process that runs now
    state: PluginState = PluginState.STARTING
    starts: int = 0
    child: Child | None = None
    task: asyncio.Task[None] | None = None


class Supervisor:
    """Plugin folders and plugin processes."""

    def __init__(self, around: SupervisorConfig) -> None:
        self._around = around
        self._tasks = around.tasks
        self._running: dict[str, _Running] = {}
        self._listener: Callable[[PluginChange], None] = _nobody
        self._lock = asyncio.Lock()

    def listen(self, listener: Callable[[PluginChange], None]) -> None:
        """Have `listener` called when a plugin's process starts or crashes."""
        self._listener = listener

    # what there is

    def installed(self) -> Sequence[InstalledPlugin]:
        """Read the plugin folders afresh."""
        found, problems = discover(self._around.folders)
        plugins = [
            InstalledPlugin(
                name=manifest.name,
                version=manifest.version,
                description=manifest.description,
                events=manifest.events,
                scopes=manifest.scopes,
                settings_schema=manifest.settings_schema(),
            )
            for manifest in found.values()
        ]
        plugins += [InstalledPlugin(name=n, problem=text) for n, text in problems.items()]
        return sorted(plugins, key=lambda plugin: plugin.name)

    def _manifest(self, name: str) -> Manifest:
        found, problems = discover(self._around.folders)
        if name in problems:
            raise ConfigError(problems[name])
        if name not in found:
            raise NotFound(f"there is no plugin {name}{did_you_mean(name, found)}")
        return found[name]

    def check_settings(self, name: str, settings: Mapping[str, object]) -> Mapping[str, object]:
        """Return the settings with defaults; see the port."""
        return self._manifest(name).check_settings(settings)

    def state(self, name: str) -> tuple[PluginState, int]:
        """Return the state of its process and the restarts since `start`."""
        plugin = self._running.get(name)
        if plugin is None:
            return PluginState.DISABLED, 0
        return plugin.state, max(0, plugin.starts - 1)

    def log(self, name: str) -> bytes:
        """Return the kept output."""
        path = self._log_path(name)
        kept = b""
        for part in (path.with_suffix(".log.1"), path):
            with contextlib.suppress(FileNotFoundError):
                kept += part.read_bytes()
        return kept

    def _log_path(self, name: str) -> Path:
        return self._around.state / f"{name}.log"

    def caller(self, token: str) -> tuple[str, frozenset[str]] | None:
        """Return name and scopes of the plugin that holds a token; None when none does."""
        digest = _digest(token)
        for plugin in self._running.values():
            if secrets.compare_digest(digest, plugin.token_hash):
                return plugin.manifest.name, frozenset(plugin.manifest.scopes)
        return None

    # starting and stopping

    async def start(
        self, name: str, settings: Mapping[str, object], uid: int, since: int | None = None
    ) -> None:
        """Keep the plugin running from now on; see the port.

        `uid` is taken when it is free: a plugin that has run before keeps the user id of its
        folder, and no two plugins ever share one.
        """
        async with self._lock:
            if name in self._running:
                return
            plugin = _Running(
                manifest=self._manifest(name),
                settings=settings,
                uid=await quick(self._free_uid, name, uid),
                password=new_password(),
                since=since,
            )
            self._running[name] = plugin
            try:
                await self._tell_broker()
            except BaseException:
                del self._running[name]
                raise
            plugin.task = self._tasks.supervise(
                f"plugin {name}", functools.partial(self._supervise, plugin)
            )

    def _free_uid(self, name: str, wanted: int) -> int:
        folder = self._around.state / name
        taken = {plugin.uid for plugin in self._running.values()}
        if self._around.state.is_dir():
            others = (entry for entry in self._around.state.iterdir() if entry != folder)
            taken |= {entry.stat().st_uid for entry in others if entry.is_dir()}
        if folder.is_dir():
            kept = folder.stat().st_uid
            if kept not in taken and abs(kept - wanted) < _UIDS:
                return kept
        return next(uid for uid in range(wanted, wanted + len(taken) + 1) if uid not in taken)

    async def stop(self, name: str) -> None:
        """Stop it and take its token and broker user away (idempotent)."""
        async with self._lock:
            plugin = self._running.pop(name, None)
            if plugin is None:
                return
            await self._end(plugin)
            await self._tell_broker()

    async def close(self) -> None:
        """Stop all plugins."""
        async with self._lock:
            plugins = list(self._running.values())
            self._running.clear()
            await asyncio.gather(*(self._end(plugin) for plugin in plugins))

    async def _end(self, plugin: _Running) -> None:
        if plugin.child is not None:
            await plugin.child.stop(_GRACE)
        if plugin.task is not None:
            await cancel_all([plugin.task])
        await self._sweep(plugin)

    async def _sweep(self, plugin: _Running) -> None:
        """End what the plugin itself has started and left."""
        folder = self._folder(plugin)
        count = await quick(end_leftovers, plugin.uid, folder)
        if count:
            log.info("plugin %s: ended %d processes that it had left", plugin.manifest.name, count)

    def _folder(self, plugin: _Running) -> Path:
        return self._around.state / plugin.manifest.name

    async def _tell_broker(self) -> None:
        if self._around.set_users is None:
            return
        everything = Topics(self._around.host_id).all
        await self._around.set_users(
            [
                BrokerUser(
                    name=plugin.manifest.name,
                    password=plugin.password,
                    reads=(everything,) if "events:read" in plugin.manifest.scopes else (),
                )
                for plugin in self._running.values()
            ]
        )

    # the loop

    async def _supervise(self, plugin: _Running) -> None:
        name = plugin.manifest.name
        backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, steady=_STEADY)
        while True:
            backoff.begin()
            try:
                status: int | None
                status = ended = await self._run_once(plugin)
                reason = _ending(ended)
            except LabdError as error:
                status, reason = None, error.message
            except OSError as error:
                status, reason = None, f"cannot be started: {error}"
            if name not in self._running:
                return
            delay = backoff.pause()
            plugin.state = PluginState.BACKOFF
            log.warning("plugin %s: %s; again in %g s", name, reason, delay)
            self._listener(
                PluginChange(name=name, state=PluginState.BACKOFF, status=status, reason=reason)
            )
            await asyncio.sleep(delay)

    async def _run_once(self, plugin: _Running) -> int:
        """Run the plugin's process to its end and return its status, negative for a signal."""
        name = plugin.manifest.name
        await self._sweep(plugin)  # of a daemon that was killed
        token = secrets.token_urlsafe(32)
        folder = await quick(self._prepare, plugin, token)
        plugin.token_hash = _digest(token)
        child = await self._spawn(plugin, folder)
        plugin.child = child
        plugin.starts += 1
        plugin.state = PluginState.RUNNING
        log.info("plugin %s runs (pid %d)", name, child.pid)
        self._listener(PluginChange(name=name, state=PluginState.RUNNING))
        record = functools.partial(self._record, plugin, child)
        words = self._tasks.supervise(f"log of plugin {name}", record)
        try:
            status = await child.wait()
            await self._sweep(plugin)  # also of what holds the other end of its pipe
            await asyncio.wait({words}, timeout=_LAST_WORDS)
            return status
        finally:
            plugin.child = None
            words.cancel()
            await child.stop(_GRACE)

    async def _spawn(self, plugin: _Running, folder: Path) -> Child:
        # By descriptor: the plugin's user may be unable to pass through the folders above.
        run = open_folder(self._around.socket.parent)
        try:
            code = open_folder(plugin.manifest.folder)
            try:
                argv, jail = self._command(plugin, code)
                return await spawn(
                    argv,
                    cwd=folder,
                    env=self._environment(plugin, run, code),
                    stdout=PIPE,
                    stderr=STDOUT,
                    pass_fds=[run, code],
                    jail=jail,
                    umask=0o077,
                )
            finally:
                os.close(code)
        finally:
            os.close(run)

    def _command(self, plugin: _Running, code: int) -> tuple[list[str], Jail | None]:
        manifest, uid = plugin.manifest, plugin.uid
        if manifest.is_python:
            # It drops its rights itself: see there.
            launch = [self._around.python, "-I", "-u", "-m", "labd.plugin.launch"]
            program = str(manifest.folder / manifest.command[1])
            arguments = [str(uid), str(os.getpid()), str(code), program]
            return [*launch, *arguments, *manifest.command[2:]], None
        words = [
            f"/proc/self/fd/{code}/{word}" if manifest.has_file(word) else word
            for word in manifest.command
        ]
        return words, Jail(uid=uid, gid=uid, new_netns=False, pdeathsig="KILL")

    def _environment(self, plugin: _Running, run: int, code: int) -> dict[str, str]:
        broker = self._around.broker
        known = self._around.set_users is not None
        return {
            "HOME": ".",
            "XDG_CONFIG_HOME": ".",
            files.ENV_NAME: plugin.manifest.name,
            files.ENV_SOCKET: f"/proc/self/fd/{run}/{self._around.socket.name}",
            files.ENV_HOST: self._around.host_id,
            files.ENV_MQTT_HOST: broker.host if known else "",
            files.ENV_MQTT_PORT: str(broker.port),
            files.ENV_MQTT_USER: plugin.manifest.name,
            files.ENV_EVENTS: " ".join(plugin.manifest.events),
            files.ENV_CODE: f"/proc/self/fd/{code}",
            files.ENV_STATE: str(self._folder(plugin)),
        }

    def _prepare(self, plugin: _Running, token: str) -> Path:
        """Make the plugin's folder with what it needs to come in."""
        folder = self._folder(plugin)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != plugin.uid:
            files.give(folder, plugin.uid)
        broker = self._around.broker
        subscriber = f"-h {broker.host}\n-p {broker.port}\n-V mqttv5\n-q 1\n"
        subscriber += f"-u {plugin.manifest.name}\n-P {plugin.password}"
        since = () if plugin.since is None else ((files.SINCE, str(plugin.since)),)
        for name, text in (
            *since,
            (files.SETTINGS, json.dumps(dict(plugin.settings))),
            (files.TOKEN, token),
            (files.HEADER, f"Authorization: Bearer {token}"),
            (files.PASSWORD, plugin.password),
            (files.SUBSCRIBER, subscriber),
        ):
            files.replace_file(folder / name, f"{text}\n", owner=plugin.uid)
        return folder

    async def _record(self, plugin: _Running, child: Child) -> None:
        """Keep what a plugin says, bounded."""
        if child.stdout is None:
            return
        path = self._log_path(plugin.manifest.name)
        failing = False
        while chunk := await child.stdout.read(1 << 14):
            try:
                await quick(files.append_log, path, chunk)
                failing = False
            except OSError as error:  # a full disk is no reason to stop a plugin
                if not failing:
                    log.warning("the log of plugin %s is incomplete: %s", path.stem, error)
                failing = True


def _nobody(change: PluginChange) -> None:
    """Hear nothing: `listen` was not called yet."""


def _ending(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit status {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
