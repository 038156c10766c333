"""From a node's spec to a machine: names become files, defaults become numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labd.model.cloudinit import seed
from labd.model.disks import LOCAL, NO_DISK, DiskKind, DiskRef, image_disk
from labd.model.errors import InputError
from labd.model.guestconfig import Resolver, first_addresses, guest_config
from labd.model.images import Image, ImageFormat, Profile
from labd.model.machine import CpuSetting, Disk, MachineSpec, Nic
from labd.model.names import did_you_mean
from labd.model.network import LabNetworkPlan
from labd.model.records import NodeRecord
from labd.model.slots import numbered
from labd.model.specs import BootDevice, DiskBus, Firmware, LabSpec, Machine, NodeSpec, Readiness
from labd.model.units import MIB, format_size

DEFAULT_MEMORY = 256 * MIB
SEED_ID, SEED_FILE = "seed", "seed.iso"  # the drive, and its file in the node's folder
SEED_SLOT = 14  # of virtio disks the last: the root disk is 0, and others begin at 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A node with everything decided that its profile and image decide.

    Attributes:
        memory: Bytes.
        disk: Virtual size of the root disk in bytes; None: as the image, or no root disk.
        medium: The image in the CD-ROM drive, None for an empty drive, or none at all.
    """

    node: NodeSpec
    image: Image
    vcpus: int
    memory: int
    disk: int | None
    ready: Readiness
    medium: Image | None = None

    @property
    def iso(self) -> bool:
        """Its image is an ISO."""
        return self.image.format is ImageFormat.ISO

    @property
    def has_drive(self) -> bool:
        """It has a CD-ROM drive."""
        return self.iso or self.node.cdrom is not None

    @property
    def seeded(self) -> bool:
        """It gets a seed for cloud-init."""
        return self.image.cloud_init or self.node.cloud_init is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """A disk that must be there before the launch: an overlay on `image`, or a blank."""

    ref: DiskRef
    image: Image | None
    size: int | None


def size_node(
    node: NodeSpec, profiles: Mapping[str, Profile], images: Mapping[str, Image]
) -> Sized:
    """Look up profile and image of a node.

    Raises:
        InputError: There is no such profile or image, or they do not suit the node.
    """
    profile = None
    if node.profile:
        profile = profiles.get(node.profile)
        if profile is None:
            raise InputError(
                f"node {node.name}: there is no profile {node.profile}"
                f"{did_you_mean(node.profile, profiles)} (`lab profile ls`)"
            )
    name = node.image or (profile.image if profile else "")
    image = _find_image(node.name, name, images)
    disk = node.disk if node.disk is not None else (profile.disk if profile else None)
    if disk is not None and image.virtual_size > disk and image.format is not ImageFormat.ISO:
        raise InputError(
            f"node {node.name}: disk of {format_size(disk)} is smaller than image {image.name} "
            f"({format_size(image.virtual_size)}); leave it out or write more"
        )
    if node.cmdline and not image.has_kernel:
        raise InputError(
            f"node {node.name}: cmdline is for kernel images, and {image.name} is "
            f"{image.format}; leave it out"
        )
    if node.cloud_init is not None and not image.has_disk:
        raise InputError(
            f"node {node.name}: cloud_init is for images with cloud-init on a disk, and "
            f"{image.name} is {image.format}; leave it out, or use image debian"
        )
    if node.machine is Machine.MICROVM and not image.has_kernel:
        raise InputError(
            f"node {node.name}: machine microvm boots kernel images only, and {image.name} is "
            f"{image.format}; use machine q35"
        )
    if profile is not None and profile.firmware is not Firmware.BIOS:
        node = replace(node, firmware=profile.firmware)
    return Sized(
        node=node,
        image=image,
        vcpus=node.vcpus or (profile.vcpus if profile else 1),
        memory=node.memory or (profile.memory if profile else DEFAULT_MEMORY),
        disk=disk,
        ready=_readiness(node.ready, image),
        medium=_medium(node, image, images),
    )


def _medium(node: NodeSpec, image: Image, images: Mapping[str, Image]) -> Image | None:
    if node.cdrom is None:
        return image if image.format is ImageFormat.ISO else None
    if not node.cdrom:
        return None
    medium = _find_image(node.name, node.cdrom, images)
    if medium.format is not ImageFormat.ISO:
        raise InputError(
            f"node {node.name}: image {medium.name} is {medium.format} and no CD; "
            "`lab image ls` shows which are iso"
        )
    return medium


def _find_image(node: str, name: str, images: Mapping[str, Image]) -> Image:
    found = images.get(name)
    if found is None and name.startswith("sha256:"):
        found = next((image for image in images.values() if image.digest == name), None)
    if found is None:
        advice = (
            f"make it with `lab image build {name}`"
            if name in {"tiny", "router", "debian", "bootsector"}
            else ("add it with `lab image import`")
        )
        raise InputError(
            f"node {node}: there is no image {name!r}{did_you_mean(name, images)}; {advice}",
            image=name,
        )
    return found


def _readiness(ready: Readiness, image: Image) -> Readiness:
    asked = ready.console or ready.tcp_port or ready.agent or ready.command
    if asked or not image.ready_pattern:
        return ready
    return replace(ready, console=image.ready_pattern)


def disk_plans(sized: Sized, key: str, storage: str = LOCAL) -> tuple[DiskPlan, ...]:
    """Return the disks that a node needs, in the order of its drives.

    The name of an overlay has the digest of its image, so that another image makes another disk.

    Args:
        sized: The node with its image.
        key: Of its machine.
        storage: Class of disks that are new.
    """
    plans = []
    own = DiskRef(kind=DiskKind.MACHINE, key=key, storage=storage)
    image = sized.image
    if image.has_disk:
        digest = image.digest.removeprefix("sha256:")[:12]
        plans.append(DiskPlan(ref=own.beside(f"root-{digest}.qcow2"), image=image, size=sized.disk))
    elif sized.disk is not None:
        plans.append(DiskPlan(ref=own.beside("root-blank.qcow2"), image=None, size=sized.disk))
    plans.extend(
        DiskPlan(ref=own.beside(f"disk-{disk.name}.qcow2"), image=None, size=disk.size)
        for disk in sized.node.disks
    )
    return tuple(plans)


def machine_of(
    lab: LabSpec,
    name: str,
    sized: Sized,
    record: NodeRecord,
    *,
    folder: Path,
    run: Path,
    files: Mapping[str, Path],
    medium: DiskRef | None = None,
    storage: str = LOCAL,
    kvm: bool,
    cpu: CpuSetting,
    authorized_keys: Sequence[str] = (),
    resolvers: Mapping[str, Resolver] | None = None,
) -> MachineSpec:
    """Return the machine of a node.

    Args:
        lab: The whole spec; other nodes' addresses go to the guest's hosts table.
        name: The lab's name.
        sized: The node with its image.
        record: Gives key, UUID and user id.
        folder: Of the node's own small files.
        run: Of the node's sockets.
        files: Parts of the image.
        medium: The CD, when there is one.
        storage: Class of disks that are new.
        kvm: The accelerator that was chosen.
        cpu: The CPU that goes with it.
        authorized_keys: OpenSSH public keys that the guest shall let in.
        resolvers: Network name -> who answers names in it.
    """
    node, image = sized.node, sized.image
    return MachineSpec(
        lab=name,
        node=node.name,
        kind=node.kind,
        key=record.key,
        uuid=record.uuid,
        uid=record.uid,
        folder=folder,
        run=run,
        vcpus=sized.vcpus,
        memory=sized.memory,
        machine=node.machine,
        firmware=node.firmware,
        display=node.display,
        kvm=kvm,
        cpu=cpu,
        balloon=node.machine is not Machine.MICROVM,
        disks=(*_drives(sized, record.key, storage, medium), *_seed_drive(sized, record.key)),
        boot=_boot(node, image),
        kernel=files.get("kernel"),
        initrd=files.get("initrd"),
        cmdline=" ".join(filter(None, (image.cmdline, node.cmdline))),
        nics=tuple(
            Nic(id=f"n{slot}", mac=nic.mac, model=nic.model, slot=slot)
            for slot, nic in numbered(node.nics)
        ),
        config=guest_config(
            node,
            hosts=first_addresses(lab.nodes),
            mtus={network.name: network.mtu for network in lab.networks},
            resolvers=resolvers or {},
            authorized_keys=authorized_keys,
        ),
    )


def seed_of(
    lab: LabSpec,
    sized: Sized,
    record: NodeRecord,
    *,
    authorized_keys: Sequence[str] = (),
    resolvers: Mapping[str, Resolver] | None = None,
) -> Mapping[str, bytes]:
    """Return the files of a node's seed, none for a node without; arguments as in `machine_of`."""
    if not sized.seeded:
        return {}
    return seed(
        sized.node,
        uuid=record.uuid,
        hosts=first_addresses(lab.nodes),
        mtus={network.name: network.mtu for network in lab.networks},
        resolvers=resolvers,
        authorized_keys=authorized_keys,
    )


def resolvers_of(lab: LabSpec, network: LabNetworkPlan) -> Mapping[str, Resolver]:
    """Return network name -> who answers names in it; networks without are left out."""
    own = {bridge.network: bridge for bridge in network.bridges}
    return {
        net.name: Resolver(
            address=(own[net.name].address or own[net.name].address6).partition("/")[0],
            domain=net.dns.domain,
        )
        for net in lab.networks
        if net.dns is not None
    }


def _boot(node: NodeSpec, image: Image) -> tuple[BootDevice, ...]:
    # A kernel image is started by QEMU itself; a firmware order would only slow it down.
    return () if image.has_kernel else node.boot


def seed_disk(key: str) -> DiskRef:
    """Return the disk of a machine's seed, which is a file of its host in any case."""
    return DiskRef(kind=DiskKind.MACHINE, key=key, name=SEED_FILE)


def _seed_drive(sized: Sized, key: str) -> tuple[Disk, ...]:
    """Return the drive of the seed, on the bus for which the guest has a driver.

    On virtio it is a disk with a CD's file system: cloud kernels know no drive but that.
    """
    if not sized.seeded:
        return ()
    bus = sized.node.disk_bus
    cdrom = bus is not DiskBus.VIRTIO
    return (
        Disk(
            id=SEED_ID,
            ref=seed_disk(key),
            format=ImageFormat.RAW,
            bus=bus,
            read_only=True,
            cdrom=cdrom,
            serial=SEED_ID,
            slot=None if cdrom else SEED_SLOT,
        ),
    )


def _drives(sized: Sized, key: str, storage: str, medium: DiskRef | None) -> tuple[Disk, ...]:
    drives = []
    plans = list(disk_plans(sized, key, storage))
    image = sized.image
    if len(plans) > len(sized.node.disks):
        below = ((image_disk(image.digest), image.format),) if plans[0].image is not None else ()
        drives.append(
            Disk(
                id="root",
                ref=plans.pop(0).ref,
                format=ImageFormat.QCOW2,
                backing=below,
                bus=sized.node.disk_bus,
                serial="root",
                slot=0,
            )
        )
    if sized.has_drive:
        drives.append(
            Disk(
                id="cd0",
                ref=medium or NO_DISK,
                format=ImageFormat.RAW,
                read_only=True,
                cdrom=True,
                empty=medium is None,
            )
        )
    for (slot, disk), plan in zip(numbered(sized.node.disks), plans, strict=True):
        drives.append(
            Disk(
                id=f"d{slot}",
                ref=plan.ref,
                format=ImageFormat.QCOW2,
                bus=disk.bus,
                serial=disk.name[:20],
                slot=slot + 1,
            )
        )
    return tuple(drives)
