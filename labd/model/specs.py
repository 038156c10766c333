"""What a lab shall be: the compiled form of a lab template.

A spec is complete and literal: parameters are substituted, `count` is expanded, MAC addresses are
derived. Only names of images and profiles are left to be looked up. It is stored as JSON with the
lab, and two specs are compared field by field to plan a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from labd.model.impairment import Impairment
from labd.model.kinds import DEFAULT_KIND
from labd.model.serving import DhcpSpec, DnsSpec

MAX_VCPUS = 64  # of a node


class Accel(StrEnum):
    """How the CPUs of a node run; `auto` is KVM where it really works, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Machine(StrEnum):
    """QEMU machine type. `microvm` has no PCI: it suits small virtio-only guests."""

    PC = "pc"
    Q35 = "q35"
    MICROVM = "microvm"


class Firmware(StrEnum):
    """What the machine starts with; `uefi` is OVMF."""

    BIOS = "bios"
    UEFI = "uefi"


class Display(StrEnum):
    """The screen of a node."""

    NONE = "none"
    VNC = "vnc"


class DiskBus(StrEnum):
    """How disks are attached."""

    VIRTIO = "virtio"
    IDE = "ide"
    SCSI = "scsi"


class NicModel(StrEnum):
    """Which network card a guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


class BootDevice(StrEnum):
    """What the firmware tries, in the order given."""

    DISK = "disk"
    CDROM = "cdrom"
    NETWORK = "network"


class RestartMode(StrEnum):
    """When the watchdog plugin starts a node again."""

    NO = "no"
    ON_FAILURE = "on-failure"  # it crashed, panicked or hung
    ALWAYS = "always"  # also when the guest powered itself off


class Gateway(StrEnum):
    """Who routes a network."""

    LABD = "labd"
    NODE = "node"
    NONE = "none"


class PortSecurity(StrEnum):
    """What the NICs of a network are held to; each includes the one before."""

    NONE = "none"
    MAC = "mac"  # frames come from the NIC's own MAC address
    ADDRESS = "address"  # and packets from its own IP addresses


class DependsOn(StrEnum):
    """What a node waits for in another one before it starts."""

    RUNNING = "running"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When and how often a node is started again after a failure.

    Attributes:
        mode: Which ends count.
        limit: Starts within `window` after which the node is left alone.
        window: Seconds.
    """

    mode: RestartMode = RestartMode.NO
    limit: int = 5
    window: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """How a node shows that it is ready. At most one of the first four is set.

    With none set, a node is ready when its image says how (see `Image.ready_pattern`), and
    otherwise as soon as its CPUs run.

    Attributes:
        console: Regular expression looked for in the serial output since the start (RE2-like
            subset: no back-references), matched per line.
        tcp_port: TCP port of the first NIC with an address that accepts a connection.
        agent: The QEMU guest agent answers `guest-ping`.
        command: argv run by the guest agent until it exits with status 0.
        timeout: Seconds from the start of the CPUs; then the node's start has failed.
    """

    console: str = ""
    tcp_port: int = 0
    agent: bool = False
    command: tuple[str, ...] = ()
    timeout: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A disk besides the one that the image gives. Empty, raw to the guest, kept by `lab down`.

    Attributes:
        name: Unique in the node; the guest sees it as the virtio serial.
        size: Bytes.
        bus: How it is attached.
        slot: Where it is attached; see `labd.model.slots`.
    """

    name: str
    size: int
    bus: DiskBus = DiskBus.VIRTIO
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSpec:
    """A node's attachment to a network.

    Attributes:
        name: Unique in the node; `eth0`-like names are what the guest calls it where it can.
        network: Name of a network or link of the spec.
        mac: Six lower-case hex octets.
        addresses: `a.b.c.d/len` or IPv6 with prefix length, as the guest configures itself.
        gateway: Address of the default route over this NIC, empty for none.
        model: Which card.
        dhcp: The guest asks for its address.
        slot: Where it is attached; see `labd.model.slots`.
        down: Its carrier is off.
        sends: What happens to the frames that the node sends over it.
    """

    name: str
    network: str
    mac: str
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    model: NicModel = NicModel.VIRTIO
    dhcp: bool = False
    slot: int | None = None
    down: bool = False
    sends: Impairment = field(default_factory=Impairment)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """A static route of the guest: `to` is CIDR or `default`, `via` an address."""

    to: str
    via: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Another node, and what it must have reached."""

    node: str
    condition: DependsOn


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSpec:
    """A TCP port of a node that shall be reached at a port of the host; see `model.publish`.

    Attributes:
        port: Of the node.
        address: Of the host.
        host_port: Of the host; 0: labd chooses one and tells it.
    """

    port: int
    address: str = "127.0.0.1"
    host_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudInitSpec:
    """What the template says to cloud-init in a node; each a mapping as JSON text, or empty.

    Attributes:
        user_data: Cloud-config; labd adds keys and commands to it (`labd.model.cloudinit`).
        meta_data: Replaces what labd says, key by key.
        network_config: Replaces what labd derives from the NICs, as a whole.
    """

    user_data: str = ""
    meta_data: str = ""
    network_config: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    """A file that the guest agent writes before a node is ready.

    Attributes:
        path: Absolute, as the guest has it.
        mode: For chmod(1), such as `0755`; empty: as the guest makes it.
    """

    path: str
    content: str
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node.

    Attributes:
        name: Unique in the lab.
        kind: Which driver runs it; see `labd.model.kinds`.
        image: Name of an image, or `sha256:...`; empty when the profile names it.
        profile: Name of a profile, or empty.
        vcpus: None: the profile's, or 1.
        memory: Bytes; None: the profile's, or 256 MiB.
        disk: Virtual size of the root disk in bytes; None: the profile's, or the image's own.
        cdrom: Name of the image in the CD-ROM drive, empty for a drive without a medium; None: no
            drive, or the image itself when that is an ISO.
        cmdline: Kernel command line, added to the image's own; kernel images only.
        forwarding: The guest shall forward IP packets.
        commands: argv lists that the guest runs at boot where its image supports it (`tiny`).
        files: Written by the guest agent after each boot.
        startup: argv lists that the guest agent runs after each boot, behind `files`.
        on_fork: argv lists that the guest agent runs in a copy that was started from a checkpoint.
        publish: Ports that labd listens at for it while the lab is up.
        cloud_init: It gets a seed for cloud-init with this; None: only if its image has cloud-init.
    """

    name: str
    kind: str = DEFAULT_KIND
    image: str = ""
    profile: str = ""
    vcpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    disks: tuple[DiskSpec, ...] = ()
    disk_bus: DiskBus = DiskBus.VIRTIO
    cdrom: str | None = None
    firmware: Firmware = Firmware.BIOS
    machine: Machine = Machine.Q35
    display: Display = Display.NONE
    boot: tuple[BootDevice, ...] = (BootDevice.DISK, BootDevice.CDROM)
    accel: Accel = Accel.AUTO
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    cmdline: str = ""
    nics: tuple[NicSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    forwarding: bool = False
    commands: tuple[tuple[str, ...], ...] = ()
    files: tuple[GuestFile, ...] = ()
    startup: tuple[tuple[str, ...], ...] = ()
    on_fork: tuple[tuple[str, ...], ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    ready: Readiness = field(default_factory=Readiness)
    publish: tuple[PublishSpec, ...] = ()
    cloud_init: CloudInitSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowSpec:
    """Something of the host's that guests behind NAT may reach.

    Attributes:
        to: `host`, which is any address of the host, or an IPv4 CIDR.
        protocol: `tcp` or `udp`.
        ports: Of the destination, ascending.
    """

    to: str
    protocol: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """One layer-2 segment.

    Attributes:
        name: Unique among networks and links of the lab.
        link: It has exactly two ends.
        subnet: CIDR, or empty when it is not known.
        uplink: `none`, `nat` or `bridge:<host interface>`.
        mtu: Bytes.
        gateway: Who routes it. `labd` has an address of its own on the bridge.
        gateway_address: Of the gateway, without prefix length; empty for none.
        vlan: 802.1Q tag on the uplink bridge; 0 for untagged.
        allow: What guests may reach of the host with uplink `nat`.
        subnet6: A second subnet, IPv6, or empty.
        dhcp: Addresses that labd gives out; None: it gives none.
        dns: Names that labd answers; None: it answers none.
        port_security: What its NICs may send.
        trusted: `NODE:NIC` of those that may send anything all the same.
    """

    name: str
    link: bool = False
    subnet: str = ""
    uplink: str = "none"
    mtu: int = 1500
    gateway: Gateway = Gateway.NONE
    gateway_address: str = ""
    vlan: int = 0
    allow: tuple[AllowSpec, ...] = ()
    subnet6: str = ""
    dhcp: DhcpSpec | None = None
    dns: DnsSpec | None = None
    port_security: PortSecurity = PortSecurity.NONE
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSpec:
    """A whole topology.

    Attributes:
        template: Name of the template; MAC addresses derive from it.
        parameters: The values that were put in, as text.
        digest: `sha256:` of the template's text.
        chapters: Names of checkpoints, in the order of an exercise.
    """

    template: str
    description: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    nodes: tuple[NodeSpec, ...] = ()
    networks: tuple[NetworkSpec, ...] = ()
    chapters: tuple[str, ...] = ()

    def node(self, name: str) -> NodeSpec:
        """Return the node called `name`; KeyError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)
