"""A running daemon: its parts, started in order and ended in the opposite one."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from labd import __version__
from labd.api.app import AppSettings
from labd.api.authenticators import user_roles
from labd.api.callers import Caller
from labd.api.limits import student_bounds
from labd.api.server import serving, serving_tcp
from labd.composition.adapters import build_adapters
from labd.composition.findings import judge_host
from labd.composition.messaging import Messaging, background
from labd.composition.nodes import build_nodes, hypervisor_of
from labd.composition.settings import Settings
from labd.composition.sockets import group_of, listen
from labd.composition.storage import storage_of
from labd.core.guard import guard, guard_port
from labd.core.ports import PluginRunner
from labd.drivers.node.driver import NodeSettings
from labd.features.app import make_app
from labd.features.connect.socket import ConnectSocket
from labd.features.engine import Engine
from labd.features.plugins.supervisor import Supervisor
from labd.features.templates.shipped import ShippedTemplates
from labd.host.failpoints import failpoints
from labd.host.paths import shipped
from labd.host.supervision import TaskSupervisor
from labd.host.tuning import KsmSwitch
from labd.inventory import SqliteInventory
from labd.model.kinds import DEFAULT_KIND
from labd.model.machine import AccelChoice

log = logging.getLogger(__name__)

_RESERVE_EVERY = 60.0  # seconds


class Daemon:
    """The parts of a running daemon, and the facts that `lab version` shows."""

    def __init__(
        self, settings: Settings, inventory: SqliteInventory, host_id: str, tasks: TaskSupervisor
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._paths = settings.paths
        self._config = settings.config
        self._inventory = inventory
        self._host_id = host_id
        self._storage = storage_of(settings.config.storage, settings.paths.state)
        self._nodes = build_nodes(
            NodeSettings(
                root_id=host_id,
                run=settings.paths.run,
                storage=self._storage,
                merge=settings.config.memory.ksm != "off",
                tasks=tasks,
            )
        )
        self._messaging = Messaging(settings, inventory, host_id, tasks)
        self._group = group_of(settings.config.daemon.group)
        self._accel = AccelChoice(kvm=False)

    @classmethod
    async def start(cls, settings: Settings, stack: AsyncExitStack) -> Daemon:
        """Build everything, each part with its end on the stack; return when requests are answered.

        Raises:
            LabdError: Something cannot be had; what was started is ended by the stack.
        """
        tasks = TaskSupervisor()
        tasks.hear(asyncio.get_running_loop())
        inventory = await SqliteInventory.open(settings.paths.database)
        stack.push_async_callback(inventory.close)
        background(tasks, "reserve", functools.partial(_keep_disk_reserve, inventory), stack)
        _switch_ksm(settings, stack)
        daemon = cls(settings, inventory, await inventory.host_id(), tasks)
        broker = await daemon._messaging.start(daemon._group, stack)
        runner = daemon._messaging.plugin_runner(broker)
        adapters = build_adapters(
            settings, inventory, daemon._nodes, daemon._storage, daemon._host_id, tasks
        )
        daemon.engine = Engine(
            guard(adapters, failpoints),
            guard_port("plugins", runner, PluginRunner, failpoints),
            findings=daemon._findings,
            info=daemon._info,
        )
        daemon._accel = await daemon._nodes.accel(DEFAULT_KIND, settings.config.daemon.accel)
        if daemon._accel.warning:
            log.warning("%s", daemon._accel.warning)
        if daemon._accel.note:
            log.warning("KVM with -cpu %s: %s", daemon._accel.cpu, daemon._accel.note)
        daemon._messaging.publish(broker, stack)
        stack.push_async_callback(daemon.engine.close)
        recovered = await daemon.engine.start()
        log.info("recovered: %s", recovered)
        await daemon._serve_api(runner, stack)
        await daemon.engine.plugins.start()
        return daemon

    engine: Engine

    async def _serve_api(self, runner: Supervisor, stack: AsyncExitStack) -> None:
        def check(token: str, /) -> Caller | None:
            found = runner.caller(token)
            return None if found is None else Caller(name=f"plugin {found[0]}", scopes=found[1])

        settings = AppSettings(
            version=__version__,
            tokens=check,
            admin_socket=self._paths.api_socket,
            people_socket=self._paths.people_socket,
            users=user_roles(self._config.access),
            hosts=self._config.api.hosts,
            student=student_bounds(self._config.limits),
        )
        templates = ShippedTemplates(shipped("lab-templates"), self._nodes.kinds)
        app = make_app(self.engine, templates, settings)
        sockets = [
            listen(self._paths.api_socket, 0o660, self._group, stack),
            # Whoever is not known by the kernel's word needs a token, so that all may knock.
            listen(self._paths.people_socket, 0o666, None, stack),
            listen(self._paths.plugin_socket, 0o666, None, stack),
        ]
        await stack.enter_async_context(serving(app, sockets, tasks=self._tasks))
        await stack.enter_async_context(serving_tcp(app, self._config.api, self._tasks))
        # The administrators of `api.sock`, by the same means: the mode of the file.
        ways = listen(self._paths.connect_socket, 0o660, self._group, stack)
        await stack.enter_async_context(
            ConnectSocket(self.engine.connect, self.engine.access, ways, self._tasks)
        )

    async def _findings(self) -> Sequence[Mapping[str, str]]:
        findings = await judge_host(self._paths, self._config, hypervisor_of(self._nodes))
        findings.append(self._messaging.finding())
        return [finding.as_dict() for finding in findings]

    def _info(self) -> Mapping[str, object]:
        return {
            "version": __version__,
            "host_id": self._host_id,
            "root": str(self._paths.root),
            "pid": os.getpid(),
            "tasks": len(asyncio.all_tasks()),  # for `make soak`: they must not grow
            "accel": "kvm" if self._accel.kvm else "tcg",
            "accel_warning": self._accel.warning,
            "accel_cpu": str(self._accel.cpu) if self._accel.kvm else "max",
            "accel_note": self._accel.note,
            "broker": self._messaging.info(),
        }


def _switch_ksm(settings: Settings, stack: AsyncExitStack) -> None:
    """Have the kernel merge memory while this daemon runs, if the administrator says so."""
    switch = KsmSwitch(settings.paths.state / "ksm-before")
    stack.callback(switch.restore)
    if settings.config.memory.ksm == "on":
        switch.turn_on()
    else:
        switch.restore()  # of a daemon that was killed


async def _keep_disk_reserve(inventory: SqliteInventory) -> None:
    """Take labd's own room on the disk again, some time after it had to be given up."""
    while True:
        await asyncio.sleep(_RESERVE_EVERY)
        await inventory.take_disk_reserve()
