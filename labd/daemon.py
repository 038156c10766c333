"""`labd`: the composition root. It builds the adapters, hands them on, and obeys signals.

    labd serve [--root DIR] [--config FILE] [--down]

SIGTERM and SIGINT stop the daemon in order and leave every machine running; with `--down` they
stop the machines too. Readiness and the end are told by sd_notify(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import grp
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import click

from labd import __version__
from labd.api.app import create_app
from labd.api.authenticators import user_roles
from labd.api.callers import Caller
from labd.api.limits import student_bounds
from labd.api.server import serving, serving_tcp
from labd.client.relay import Relays
from labd.core.adapters import CONVERTER_UID, SERVER_UID, Adapters, Limits
from labd.core.boot_slots import BootSlots
from labd.core.guard import guard, guard_port
from labd.core.ports import PluginRunner
from labd.drivers.network.linux import (
    HostPublishedPorts,
    LabCaptures,
    LabCounters,
    LabLinks,
    LabNetworks,
    LabServers,
    LabUplinks,
    NamespaceDialer,
    NetworkTraces,
    UplinkSettings,
)
from labd.drivers.network.linux.plan import plan
from labd.drivers.node.qemu import (
    MEMORY_ID,
    QemuCarriers,
    QemuDevices,
    QemuGuestFiles,
    QemuHypervisor,
    QemuInterfaces,
    QemuScreens,
    QemuSnapshots,
)
from labd.drivers.storage.local.checkpoints import CheckpointStore
from labd.drivers.storage.local.images import ImageStore
from labd.events.accounts import BrokerUser, new_password
from labd.events.broker import ManagedBroker
from labd.events.messages import Topics
from labd.events.mqtt import BrokerAddress
from labd.events.outbox import OutboxGuard, OutboxLimits
from labd.events.publisher import Publisher
from labd.features.connect.socket import ConnectSocket
from labd.features.engine import Engine
from labd.features.plugins.supervisor import Supervisor, SupervisorConfig
from labd.features.templates.shipped import ShippedTemplates
from labd.host import config as configuration
from labd.host.cgroups import HostCgroups, Place
from labd.host.cgroups import probe as probe_cgroups
from labd.host.config import Config
from labd.host.doctor import Finding, Level, judge
from labd.host.facts import gather, own_memory, read_meminfo
from labd.host.failpoints import failpoints
from labd.host.ksm import KsmSwitch
from labd.host.lockfile import RootLock
from labd.host.logs import set_up as set_up_logs
from labd.host.malloc import use_one_arena
from labd.host.memory import ProcMemory
from labd.host.notify import Notifier
from labd.host.paths import prepare, shipped
from labd.host.priority import go_first
from labd.host.resolvers import host_resolvers
from labd.host.secret import secret_of
from labd.host.sshkeys import SshKeys
from labd.host.supervision import TaskSupervisor, Work, cancel_all
from labd.host.threads import finish, quick
from labd.host.traces import HostTraces
from labd.host.usage import folder_size, process_usage
from labd.images.convert import Converter
from labd.inventory import SqliteInventory, rebuild_inventory
from labd.model.errors import ConfigError, InputError, LabdError
from labd.model.machine import AccelChoice, FoundMachine
from labd.model.network import LabNetworkPlan
from labd.model.paths import Paths, check_socket_path
from labd.model.specs import LabSpec
from labd.model.units import MIB

log = logging.getLogger("labd")

_READER = "reader"  # the broker's user for people
_RESERVE_EVERY = 60.0  # seconds
_CANCEL_AGAIN = 3.0  # seconds that a background task has for its farewell
_FLUSH = 2.0  # seconds that the last events have to reach the broker
_THREADS_END = 5.0  # seconds that threads have to end what they do


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line and the configuration file came to."""

    paths: Paths
    config: Config
    take_down: bool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labd", message="%(prog)s %(version)s")
def main() -> None:
    """The training-lab daemon; `lab` is the command to use it."""


_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LABD_ROOT",
    help="Keep everything below one folder; without it /etc/labd, /run/labd, /var/lib/labd, "
    "/var/cache/labd.",
)
_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of labd.toml in the configuration folder.",
)


@main.command()
@_root_option
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")
def doctor(root: Path | None, config_file: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Judge this host without a daemon; `lab doctor` ends up here when none answers."""
    try:
        paths, config = _configured(root, config_file)
        findings = asyncio.run(_examine(paths, config))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)
    if as_json:
        found = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"findings": found}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.level:<5} {finding.name}: {finding.text}")
            if finding.level is not Level.OK and finding.advice:
                click.echo(f"      {finding.advice}")
    sys.exit(any(finding.level is Level.FAIL for finding in findings))


async def _examine(paths: Paths, config: Config) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="labd-doctor-") as folder:
        # Machines' users must reach the device node in it.
        os.chmod(folder, 0o711)  # noqa: S103 - names in it are no secret
        return await _judge(paths, config, QemuHypervisor("doctor", Path(folder)))


async def _judge(paths: Paths, config: Config, hypervisor: QemuHypervisor) -> list[Finding]:
    facts = await gather(paths, config)
    probe = await hypervisor.probe_kvm()
    access = await quick(hypervisor.explain_kvm)
    return judge(
        facts,
        kvm_probe=probe.problem,
        kvm_access=access,
        kvm_cpu=str(probe.cpu or ""),
        kvm_note=probe.note,
    )


@main.command()
@_root_option
@_config_option
@click.option("--down", is_flag=True, help="Stop all machines too when the daemon is stopped.")
def serve(root: Path | None, config_file: Path | None, down: bool) -> None:  # noqa: FBT001
    """Run the daemon in the foreground."""
    use_one_arena()
    go_first()
    try:
        settings = _settings(root, config_file, take_down=down)
        with RootLock.acquire(settings.paths.lock, root=settings.paths.root, version=__version__):
            asyncio.run(_serve(settings))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)


@main.command()
@_root_option
@_config_option
@click.option("--force", is_flag=True, help="Also when machines run that no copy knows.")
def rebuild(root: Path | None, config_file: Path | None, force: bool) -> None:  # noqa: FBT001
    """Make a damaged inventory anew from its copy; `lab fsck --rebuild` is this."""
    try:
        settings = _settings(root, config_file, take_down=False)
        with RootLock.acquire(settings.paths.lock, root=settings.paths.root, version=__version__):
            text = asyncio.run(_rebuild(settings.paths, force=force))
    except InputError as error:
        _die(error, 2)
    except LabdError as error:
        _die(error, 1)
    click.echo(text)


async def _rebuild(paths: Paths, *, force: bool) -> str:
    async def scan(host_id: str) -> Sequence[FoundMachine]:
        return await QemuHypervisor(host_id, paths.run).scan()

    return await rebuild_inventory(paths.database, scan, force=force)


def _die(error: LabdError, status: int) -> NoReturn:
    click.echo(f"labd: {error.message}", err=True)
    sys.exit(status)


def _configured(root: Path | None, config_file: Path | None) -> tuple[Paths, Config]:
    paths = Paths.of(Path(os.path.abspath(root)) if root else None)
    return paths, configuration.load(config_file or paths.config, required=config_file is not None)


def _settings(root: Path | None, config_file: Path | None, *, take_down: bool) -> Settings:
    paths, config = _configured(root, config_file)
    set_up_logs(config.daemon.log_level, config.daemon.log_format)
    if os.geteuid() != 0:
        raise ConfigError("labd makes namespaces, taps and users' processes: run it as root")
    prepare(paths)
    failpoints.arm(os.environ)
    return Settings(paths=paths, config=config, take_down=take_down)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        # The last of all: what threads still do ends whole, unless a disk does not answer.
        stack.push_async_callback(_end_threads)
        daemon = await Daemon.start(settings, stack)
        notifier = Notifier.of()
        notifier.ready(f"serving {settings.paths.api_socket}")
        log.info("ready: %s", settings.paths.api_socket)
        await stop.wait()
        notifier.stopping()
        log.info("stopping; machines %s", "too" if settings.take_down else "run on")
        if settings.take_down:
            await daemon.engine.take_everything_down()


async def _end_threads() -> None:
    if left := await finish(_THREADS_END):
        log.warning("%d calls of the disk or the network have not come back; labd ends", left)


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
        merge = settings.config.memory.ksm != "off"
        self._hypervisor = QemuHypervisor(host_id, settings.paths.run, merge=merge, tasks=tasks)
        self._reader = new_password()
        self._broker: ManagedBroker | None = None
        self._publisher: Publisher | None = None
        kept = settings.config.broker
        self._outbox = OutboxGuard(
            inventory, OutboxLimits(events=kept.outbox_events, age=kept.outbox_days * 86_400.0)
        )
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
        _background(tasks, "reserve", functools.partial(_keep_disk_reserve, inventory), stack)
        _switch_ksm(settings, stack)
        daemon = cls(settings, inventory, await inventory.host_id(), tasks)
        broker = await daemon._start_broker(stack)
        runner = daemon._plugin_runner(broker)
        daemon.engine = Engine(
            guard(daemon._adapters(), failpoints),
            guard_port("plugins", runner, PluginRunner, failpoints),
            findings=daemon._findings,
            info=daemon._info,
        )
        daemon._accel = await daemon._hypervisor.accel(settings.config.daemon.accel)
        if daemon._accel.warning:
            log.warning("%s", daemon._accel.warning)
        if daemon._accel.note:
            log.warning("KVM with -cpu %s: %s", daemon._accel.cpu, daemon._accel.note)
        daemon._publish(broker, stack)
        stack.push_async_callback(daemon.engine.close)
        recovered = await daemon.engine.start()
        log.info("recovered: %s", recovered)
        await daemon._serve_api(runner, stack)
        await daemon.engine.plugin_service.start()
        return daemon

    engine: Engine

    async def _start_broker(self, stack: AsyncExitStack) -> BrokerAddress:
        broker = self._config.broker
        if broker.mode == "external":
            password = ""
            if broker.password_file is not None:
                password = (await quick(broker.password_file.read_text)).strip()
            return BrokerAddress.parse(
                broker.url,
                username=broker.username,
                password=password,
                ca_file=broker.ca_file,
            )
        managed = ManagedBroker(self._paths.broker_run, tcp_port=broker.tcp_port, tasks=self._tasks)
        await managed.start()
        stack.push_async_callback(managed.stop)
        _background(self._tasks, "broker", managed.run, stack)
        self._broker = managed
        await managed.set_users(self._people())
        _write_secret(self._paths.broker_password, self._reader, self._group)
        return managed.address

    def _people(self) -> list[BrokerUser]:
        """Return the broker's user for people, who may read everything of this host."""
        everything = Topics(self._host_id).all
        return [BrokerUser(name=_READER, password=self._reader, reads=(everything,))]

    def _plugin_runner(self, broker: BrokerAddress) -> Supervisor:
        managed = self._broker

        async def set_users(plugins: Sequence[BrokerUser]) -> None:
            if managed is not None:
                await managed.set_users([*self._people(), *plugins])

        return Supervisor(
            SupervisorConfig(
                folders=(*self._config.plugins.dirs, shipped("plugins")),
                state=self._paths.plugins,
                socket=self._paths.plugin_socket,
                host_id=self._host_id,
                broker=managed.plugin_address if managed is not None else broker,
                set_users=set_users if managed is not None else None,
                tasks=self._tasks,
            )
        )

    def _publish(self, broker: BrokerAddress, stack: AsyncExitStack) -> None:
        publisher = Publisher(self._inventory, broker, self._host_id)
        self._publisher = publisher
        _background(self._tasks, "outbox", self._outbox.run, stack)
        _background(self._tasks, "publisher", publisher.run, stack)
        # Pushed last, so done first: what the stop itself told still goes out.
        stack.push_async_callback(publisher.flush, _FLUSH)

    def _uplink_settings(self) -> UplinkSettings:
        network, closed = self._config.network, list(self._config.network.closed)
        if self._config.broker.mode == "external":
            # It is no guest's, wherever it runs. A name is not asked for here: it may change.
            with contextlib.suppress(ValueError):
                host = urlsplit(self._config.broker.url).hostname or ""
                closed.append(ipaddress.IPv4Network(host))
        return UplinkSettings(
            transit=network.transit,
            outside=network.outside,
            closed=closed,
            bridges=network.bridges,
        )

    def _adapters(self) -> Adapters:
        daemon = self._config.daemon
        cpus = os.cpu_count() or 1
        host_id = self._host_id
        resolvers = host_resolvers()
        uid_base = daemon.uid_base or configuration.default_uid_base(self._paths.root)

        def plan_network(spec: LabSpec, lab_key: str, keys: dict[str, str]) -> LabNetworkPlan:
            return plan(spec, lab_key, host_id, keys, resolvers=resolvers)

        return Adapters(
            inventory=self._inventory,
            hypervisor=self._hypervisor,
            networks=LabNetworks(host_id),
            uplinks=LabUplinks(host_id, self._uplink_settings()),
            servers=LabServers(self._paths.lab_runs, uid_base + SERVER_UID, self._tasks),
            links=LabLinks(),
            captures=LabCaptures(),
            counters=LabCounters(),
            memory=ProcMemory(),
            cgroups=HostCgroups(self._place()),
            carriers=QemuCarriers(self._hypervisor.machine),
            images=ImageStore(
                self._paths.state, self._paths.cache, converter=Converter(uid_base + CONVERTER_UID)
            ),
            snapshots=QemuSnapshots(self._hypervisor),
            checkpoints=CheckpointStore(self._paths.state, MEMORY_ID),
            screens=QemuScreens(self._hypervisor.machine),
            dialer=NamespaceDialer(),
            published_ports=HostPublishedPorts(
                Relays().add, self._config.publish.bounds(), self._tasks
            ),
            keys=SshKeys(self._paths.keys),
            devices=QemuDevices(self._hypervisor.machine),
            interfaces=QemuInterfaces(self._hypervisor.machine),
            guest_files=QemuGuestFiles(self._hypervisor.machine),
            state=self._paths.state,
            run=self._paths.run,
            limits=Limits(
                uid_base=uid_base,
                memory_reserve=daemon.memory_reserve_mib * MIB,
                quotas=self._config.quotas.of_labs(),
                pause_below=self._config.memory.pause_below_mib * MIB,
                stall=self._config.memory.stall_percent,
                pool_reserve=daemon.pool_reserve_mib * MIB,
            ),
            plan_network=plan_network,
            memory_available=lambda: read_meminfo()["MemAvailable"],
            own_memory=own_memory,
            process_usage=process_usage,
            memory_total=read_meminfo()["MemTotal"],
            booting=BootSlots(daemon.max_booting or 2 * cpus),
            disk_available=lambda: _free(self._paths.state),
            folder_size=folder_size,
            accel=daemon.accel,
            authorized_keys=self._config.access.authorized_keys,
            traces=[
                NetworkTraces(host_id, self._paths.lab_runs, uid_base + SERVER_UID),
                HostTraces(self._paths),
            ],
            token_secret=secret_of(self._paths.token_secret),
            tasks=self._tasks,
        )

    def _place(self) -> Place:
        """Return where control groups of machines are; nowhere when nobody wants them."""
        if self._config.memory.cgroups == "off":
            return Place()
        place = probe_cgroups(self._host_id)
        if place.problem:
            log.info("control groups: %s", place.problem)
        return place

    async def _serve_api(self, runner: Supervisor, stack: AsyncExitStack) -> None:
        def check(token: str, /) -> Caller | None:
            found = runner.caller(token)
            return None if found is None else Caller(name=f"plugin {found[0]}", scopes=found[1])

        app = create_app(
            self.engine,
            ShippedTemplates(shipped("lab-templates")),
            version=__version__,
            tokens=check,
            admin_socket=self._paths.api_socket,
            people_socket=self._paths.people_socket,
            users=user_roles(self._config.access),
            hosts=self._config.api.hosts,
            student=student_bounds(self._config.limits),
        )
        sockets = [
            _listen(self._paths.api_socket, 0o660, self._group, stack),
            # Whoever is not known by the kernel's word needs a token, so that all may knock.
            _listen(self._paths.people_socket, 0o666, None, stack),
            _listen(self._paths.plugin_socket, 0o666, None, stack),
        ]
        await stack.enter_async_context(serving(app, sockets, tasks=self._tasks))
        await stack.enter_async_context(serving_tcp(app, self._config.api, self._tasks))
        # The administrators of `api.sock`, by the same means: the mode of the file.
        ways = _listen(self._paths.connect_socket, 0o660, self._group, stack)
        await stack.enter_async_context(
            ConnectSocket(self.engine.connect, self.engine.access, ways, self._tasks)
        )

    @functools.cached_property
    def _group(self) -> int | None:
        """The id of the group that may use the API; None: root alone, which is logged once."""
        try:
            return grp.getgrnam(self._config.daemon.group).gr_gid
        except KeyError:
            log.warning(
                "there is no group %s, so only root can use the API; `lab doctor` tells how to "
                "make it",
                self._config.daemon.group,
            )
            return None

    async def _findings(self) -> Sequence[Mapping[str, str]]:
        findings = await _judge(self._paths, self._config, self._hypervisor)
        findings.append(self._outbox.finding())
        return [finding.as_dict() for finding in findings]

    def _info(self) -> Mapping[str, object]:
        broker: dict[str, object] = {"mode": self._config.broker.mode}
        if self._broker is not None:
            broker |= {
                "host": self._broker.plugin_address.host,
                "port": self._broker.port,
                "username": _READER,
                "password_file": str(self._paths.broker_password),
            }
        else:
            broker["url"] = self._config.broker.url
        if self._publisher is not None:
            broker |= {
                "connected": self._publisher.connected,
                "problem": self._publisher.problem,
            }
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
            "broker": broker,
        }


def _free(folder: Path) -> int:
    """Return the bytes that are free on the file system of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


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


def _background(tasks: TaskSupervisor, name: str, work: Work, stack: AsyncExitStack) -> None:
    """Run a loop until the stack is unwound."""
    stack.push_async_callback(cancel_all, [tasks.supervise(name, work)], _CANCEL_AGAIN)


def _listen(path: Path, mode: int, group: int | None, stack: AsyncExitStack) -> socket.socket:
    """Bind a unix socket that has its mode before anybody can connect.

    uvicorn's own `uds=` would leave it at 0666.

    Raises:
        ConfigError: The path cannot be had.
    """
    check_socket_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777)
    try:
        path.unlink(missing_ok=True)  # of a daemon that was killed: the root's lock is ours
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {path}: {error.strerror}; move away what is there"
        ) from error
    finally:
        os.umask(before)
    stack.callback(path.unlink, missing_ok=True)
    if group is not None:
        os.chown(path, 0, group)
    os.chmod(path, mode)
    return listener


def _write_secret(path: Path, text: str, group: int | None) -> None:
    """Write a file that root and a group can read."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        if group is not None:
            os.fchown(fd, 0, group)
            os.fchmod(fd, 0o640)
        file.write(text + "\n")


if __name__ == "__main__":
    main()
