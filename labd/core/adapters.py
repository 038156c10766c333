"""What the engine's parts share: the adapters, the folders and the host's limits."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labd.core.boot_slots import BootSlots
from labd.core.nodes import Nodes
from labd.core.ports import Cgroups, HostMemory, LabKeys, Traces
from labd.drivers.network.port import (
    Captures,
    Counters,
    Dialer,
    Links,
    Networks,
    PublishedPorts,
    Servers,
    Uplinks,
)
from labd.drivers.storage.port import Checkpoints, Images, Storage
from labd.host.failpoints import WALL_CLOCK, failpoints
from labd.host.identity import boot_id
from labd.host.supervision import TaskSupervisor
from labd.inventory.port import Inventory
from labd.model.disks import LOCAL
from labd.model.kinds import Capability
from labd.model.lab_leases import Moment
from labd.model.machine import AccelChoice
from labd.model.network import LabNetworkPlan
from labd.model.pools import waiting
from labd.model.quotas import Quotas
from labd.model.records import LabRecord, NodeRecord
from labd.model.specs import Accel, LabSpec
from labd.model.usage import ProcessUsage

# Of the 1,024 user ids of a root.
NODE_UIDS = 960
PLUGIN_UIDS = 62
CONVERTER_UID = NODE_UIDS + PLUGIN_UIDS  # of the qemu-img that converts what is imported
SERVER_UID = CONVERTER_UID + 1  # of the labs' dnsmasqs; each is in a namespace of its own
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def utc_now() -> str:
    """Return the time as RFC 3339 UTC with microseconds."""
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=failpoints.offset(WALL_CLOCK))
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def present_moment() -> Moment:
    """Return now, by the clocks of this host."""
    return Moment(
        wall=time.time() + failpoints.offset(WALL_CLOCK),
        boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        boot_id=boot_id(),
    )


def new_key() -> str:
    """Return a short id that was never used before, for all that matters: 6 of 32 letters."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the host bears.

    Attributes:
        uid_base: First user id of this root.
        memory_reserve: Bytes that labd leaves to the host.
        node_overhead: Bytes that a QEMU process needs besides the guest's memory.
        quotas: What each lab may have at most.
        pause_below: Bytes available, below which labs are paused; 0: half of the reserve.
        stall: Percent of time in which everything waits for memory, from which on they are, too.
        pool_reserve: Bytes, besides `memory_reserve`, that warm pools leave available.
    """

    uid_base: int
    memory_reserve: int
    node_overhead: int = 32 << 20
    quotas: Quotas = field(default_factory=Quotas)
    pause_below: int = 0
    stall: float = 0.0
    pool_reserve: int = 0


NetworkPlanner = Callable[[LabSpec, str, dict[str, str]], LabNetworkPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The engine's view of everything outside it.

    Attributes:
        disk_class: Storage class of disks that are new.
        state: Folder of what is kept; a node's small files are in `nodes/<key>`.
        run: Folder of sockets; a node's are in `n/<key>`.
        plan_network: (spec, lab key, node name -> machine key) -> plan; pure.
        memory_available: Bytes that the kernel says can be given to new processes.
        own_memory: Bytes of a process that it shares with no other; 0 when it is gone.
        process_usage: What a process has taken; None when it is gone.
        clock: RFC 3339 now.
        memory_total: Bytes of the host.
        moment: Now, for deadlines.
        booting: Slots for nodes that boot.
        disk_available: Bytes that are free where the disks are.
        accel: What `auto` of a node means here.
        nodes: The drivers of all kinds of nodes.
        traces: Find what labd has made on the host, for `lab fsck`.
        authorized_keys: OpenSSH public keys of the administrators, for every node.
        token_secret: From which the tokens of classes follow.
        tasks: Runs everything that goes on for long.
    """

    inventory: Inventory
    nodes: Nodes
    networks: Networks
    uplinks: Uplinks
    servers: Servers
    links: Links
    captures: Captures
    counters: Counters
    memory: HostMemory
    cgroups: Cgroups
    images: Images
    storage: Storage
    dialer: Dialer
    published_ports: PublishedPorts
    keys: LabKeys
    checkpoints: Checkpoints
    state: Path
    run: Path
    limits: Limits
    plan_network: NetworkPlanner
    memory_available: Callable[[], int]
    own_memory: Callable[[int], int]
    process_usage: Callable[[int], ProcessUsage | None]
    clock: Callable[[], str] = utc_now
    moment: Callable[[], Moment] = present_moment
    booting: BootSlots = field(default_factory=lambda: BootSlots(8))
    memory_total: int = 0
    disk_available: Callable[[], int] = lambda: 1 << 62
    accel: Accel = Accel.AUTO
    disk_class: str = LOCAL
    authorized_keys: tuple[str, ...] = ()
    traces: Sequence[Traces] = ()
    token_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    tasks: TaskSupervisor = field(default_factory=TaskSupervisor)

    async def choose_accel(self, kind: str, wanted: Accel) -> AccelChoice:
        """Return the accelerator of a node: its own wish, else the daemon's, else what works.

        Raises:
            CapabilityMissing: KVM was asked for and the kind of node has no accelerator.
            LaunchFailed: KVM was asked for and cannot be opened.
        """
        if wanted is Accel.AUTO and Capability.ACCELERATOR in self.nodes.of(kind).capabilities:
            wanted = self.accel
        return await self.nodes.accel(kind, wanted)

    def network_plan(self, lab: LabRecord, nodes: dict[str, NodeRecord]) -> LabNetworkPlan:
        """Return the network plan of a lab with its present machine keys."""
        return self.plan_network(lab.spec, lab.key, {name: n.key for name, n in nodes.items()})

    def namespace(self, lab: LabRecord) -> str:
        """Return the name of a lab's network namespace."""
        return self.namespace_of(lab.key)

    def namespace_of(self, key: str) -> str:
        """Return the name of the network namespace of a lab with this key."""
        return self.plan_network(LabSpec(template=""), key, {}).namespace

    async def every_node(self) -> list[NodeRecord]:
        """Return the nodes of all labs, and of all members of pools."""
        members = await self.inventory.pool_members()
        return [*await self.inventory.nodes(), *waiting(members)]

    def node_folder(self, key: str) -> Path:
        """Return the folder of a node's own small files."""
        return self.state / "nodes" / key
