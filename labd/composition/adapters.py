"""The drivers of this host, chosen by the configuration."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from labd.client.relay import Relays
from labd.composition.settings import Settings
from labd.core.adapters import CONVERTER_UID, SERVER_UID, Adapters, Limits
from labd.core.boot_slots import BootSlots
from labd.core.nodes import Nodes
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
from labd.drivers.node.qemu import MEMORY_ID
from labd.drivers.storage.local.checkpoints import CheckpointStore
from labd.drivers.storage.local.images import ImageStore
from labd.drivers.storage.port import Storage
from labd.host import config as configuration
from labd.host.cgroups import HostCgroups, Place
from labd.host.cgroups import probe as probe_cgroups
from labd.host.config import Config
from labd.host.facts import host_resolvers, own_memory, read_meminfo
from labd.host.sshkeys import SshKeys, secret_of
from labd.host.supervision import TaskSupervisor
from labd.host.traces import HostTraces
from labd.host.usage import ProcMemory, process_usage
from labd.images.convert import Converter
from labd.inventory import SqliteInventory
from labd.model.network import LabNetworkPlan
from labd.model.specs import LabSpec
from labd.model.units import MIB

log = logging.getLogger(__name__)


def build_adapters(
    settings: Settings,
    inventory: SqliteInventory,
    nodes: Nodes,
    storage: Storage,
    host_id: str,
    tasks: TaskSupervisor,
) -> Adapters:
    """Return the drivers and the host of this daemon, as its configuration says."""
    paths, config = settings.paths, settings.config
    daemon = config.daemon
    cpus = os.cpu_count() or 1
    resolvers = host_resolvers()
    uid_base = daemon.uid_base or configuration.default_uid_base(paths.root)

    def plan_network(spec: LabSpec, lab_key: str, keys: dict[str, str]) -> LabNetworkPlan:
        return plan(spec, lab_key, host_id, keys, resolvers=resolvers)

    return Adapters(
        inventory=inventory,
        nodes=nodes,
        networks=LabNetworks(host_id),
        uplinks=LabUplinks(host_id, _uplink_settings(config)),
        servers=LabServers(paths.lab_runs, uid_base + SERVER_UID, tasks),
        links=LabLinks(),
        captures=LabCaptures(),
        counters=LabCounters(),
        memory=ProcMemory(),
        cgroups=HostCgroups(_place(config, host_id)),
        images=ImageStore(paths.state, paths.cache, converter=Converter(uid_base + CONVERTER_UID)),
        storage=storage,
        disk_class=config.storage.default,
        checkpoints=CheckpointStore(paths.state, MEMORY_ID, storage),
        dialer=NamespaceDialer(),
        published_ports=HostPublishedPorts(Relays().add, config.publish.bounds(), tasks),
        keys=SshKeys(paths.keys),
        state=paths.state,
        run=paths.run,
        limits=Limits(
            uid_base=uid_base,
            memory_reserve=daemon.memory_reserve_mib * MIB,
            quotas=config.quotas.of_labs(),
            pause_below=config.memory.pause_below_mib * MIB,
            stall=config.memory.stall_percent,
            pool_reserve=daemon.pool_reserve_mib * MIB,
        ),
        plan_network=plan_network,
        memory_available=lambda: read_meminfo()["MemAvailable"],
        own_memory=own_memory,
        process_usage=process_usage,
        memory_total=read_meminfo()["MemTotal"],
        booting=BootSlots(daemon.max_booting or 2 * cpus),
        disk_available=lambda: _free(paths.state),
        accel=daemon.accel,
        authorized_keys=config.access.authorized_keys,
        traces=[
            NetworkTraces(host_id, paths.lab_runs, uid_base + SERVER_UID),
            HostTraces(paths),
        ],
        token_secret=secret_of(paths.token_secret),
        tasks=tasks,
    )


def _uplink_settings(config: Config) -> UplinkSettings:
    network, closed = config.network, list(config.network.closed)
    if config.broker.mode == "external":
        # It is no guest's, wherever it runs. A name is not asked for here: it may change.
        with contextlib.suppress(ValueError):
            host = urlsplit(config.broker.url).hostname or ""
            closed.append(ipaddress.IPv4Network(host))
    return UplinkSettings(
        transit=network.transit,
        outside=network.outside,
        closed=closed,
        bridges=network.bridges,
    )


def _place(config: Config, host_id: str) -> Place:
    """Return where control groups of machines are; nowhere when nobody wants them."""
    if config.memory.cgroups == "off":
        return Place()
    place = probe_cgroups(host_id)
    if place.problem:
        log.info("control groups: %s", place.problem)
    return place


def _free(folder: Path) -> int:
    """Return the bytes that are free on the file system of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
