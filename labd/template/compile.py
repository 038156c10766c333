"""From a checked form to a `LabSpec`: references, limits of machines, dependencies, readiness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from labd.model.kinds import VM_ONLY, Kinds
from labd.model.names import did_you_mean, is_name
from labd.model.specs import (
    DiskSpec,
    GuestFile,
    LabSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    RestartPolicy,
)
from labd.template.addresses import BY_DHCP, NO_GATEWAY, Addressing, Interface
from labd.template.complaints import Complaints
from labd.template.dependencies import Dependencies
from labd.template.document import Document, Path, Problems
from labd.template.firstboot import FirstBoot
from labd.template.form import EMPTY_DRIVE, LabForm, NodeForm
from labd.template.gateways import Gateways
from labd.template.hardware import hardware_troubles
from labd.template.keys import copied
from labd.template.kinds import check_kind
from labd.template.links import Links
from labd.template.node_parts import NicForm
from labd.template.port_security import check_port_security
from labd.template.publishing import Publishing
from labd.template.readiness import readiness
from labd.template.served import Served
from labd.template.uplinks import allowed, check_uplink

_IMAGE = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MIB, _TIB = 1 << 20, 1 << 40
_SECTOR: Final = 512
_DISK_NAME: Final = 20  # characters of a serial number: VIRTIO_BLK_ID_BYTES, and ATA's IDENTIFY


def compile_lab(
    form: LabForm, document: Document, problems: Problems, *, digest: str, kinds: Kinds = VM_ONLY
) -> LabSpec:
    """Return the spec; what is wrong goes to `problems`, and the spec is then of no use."""
    complaints = Complaints(document, problems)
    addressing = Addressing(form.name, complaints)
    return _Compiler(form, complaints, addressing, Gateways(addressing, complaints), kinds).lab(
        digest
    )


@dataclass
class _Compiler:
    form: LabForm
    complaints: Complaints
    addressing: Addressing
    gateways: Gateways
    kinds: Kinds
    segments: dict[str, str] = field(default_factory=dict)  # network or link -> its section

    def __post_init__(self) -> None:
        self.published = Publishing(self.complaints)
        self.first_boot = FirstBoot(self.complaints)
        self.served = Served(self.addressing, self.complaints)
        self.links = Links(self.form, self.complaints)
        self.dependencies = Dependencies(self.form, self.complaints)

    def _wrong(self, message: str, path: Path, *, key: bool = False) -> None:
        self.complaints.wrong(message, path, key=key)

    def lab(self, digest: str) -> LabSpec:
        form = self.form
        self.links.give_ends()
        networks = tuple(self._networks())
        self.links.check_links()
        nodes = tuple(self._node(name, node) for name, node in form.nodes.items())
        nodes = self.gateways.nodes(form, networks, nodes)
        self.served.check_names(networks, nodes)
        check_port_security(networks, nodes, self.complaints)
        self.dependencies.check_cycles()
        self._check_chapters()
        return LabSpec(
            template=form.name,
            description=form.description,
            parameters=dict(form.parameters),
            digest=digest,
            nodes=nodes,
            networks=networks,
            chapters=tuple(form.chapters),
        )

    def _check_chapters(self) -> None:
        """Complain of a chapter that comes twice: a lab would never come out of it."""
        chapters = self.form.chapters
        for index, name in enumerate(chapters):
            if name in chapters[:index]:
                self._wrong(
                    f"chapters, entry {index + 1}: {name} is there twice; keep one",
                    ("chapters", index),
                )

    # networks and links

    def _networks(self) -> Iterator[NetworkSpec]:
        for section, forms in (("networks", self.form.networks), ("links", self.form.links)):
            for name, network in forms.items():
                path: Path = (section, name)
                where = f"{section[:-1]} {name}"
                if self.segments.setdefault(name, section) != section:
                    self._wrong(f"{where}: a network has that name; choose another", path, key=True)
                check_uplink(where, network, path, self.complaints, link=section == "links")
                subnet = self.addressing.subnet(where, name, network, path)
                subnet6 = self.addressing.subnet6(where, name, network, path)
                gateway, address = self.gateways.network(
                    where, name, network, path, link=section == "links"
                )
                yield replace(
                    NetworkSpec(**{**copied(network, NetworkSpec), "name": name}),
                    link=section == "links",
                    subnet=subnet,
                    gateway=gateway,
                    gateway_address=address,
                    allow=tuple(allowed(where, network, path, self.complaints)),
                    subnet6=subnet6,
                    dhcp=self.served.dhcp(where, name, network, path, link=section == "links"),
                    dns=self.served.dns(where, name, network, path, link=section == "links"),
                )

    # nodes

    def _node(self, name: str, form: NodeForm) -> NodeSpec:
        path: Path = ("nodes", name)
        self._check_source(name, form, path)
        self._check_sizes(name, form, path)
        for message, at, key in hardware_troubles(form):
            self._wrong(f"node {name}: {message}", (*path, *at), key=key)
        nics, own = self._nics(name, form, path)
        node = replace(
            NodeSpec(**{**copied(form, NodeSpec), "name": name}),
            profile=form.profile or "",
            disks=tuple(
                DiskSpec(name=disk, size=item.size, bus=item.bus or form.disk_bus)
                for disk, item in form.disks.items()
            ),
            cdrom="" if form.cdrom == EMPTY_DRIVE else form.cdrom,
            restart=self._restart(name, form, path),
            nics=nics,
            routes=tuple(self.addressing.routes(name, form, own, path)),
            files=tuple(
                GuestFile(path=name, content=file.content, mode=file.mode)
                for name, file in form.files.items()
            ),
            depends_on=tuple(self.dependencies.of(name, form, path)),
            ready=readiness(name, form, self.form, self.complaints),
            publish=tuple(self.published.of(name, form, path)),
            cloud_init=self.first_boot.of(name, form, path),
        )
        check_kind(node, self.kinds, path, self.complaints)
        return node

    def _check_source(self, name: str, form: NodeForm, path: Path) -> None:
        if not form.image and not form.profile:
            self._wrong(f"node {name} needs the key 'image' or 'profile'", path, key=True)
        elif form.image and not _is_image(form.image):
            self._wrong(
                f"node {name}: image '{form.image[:64]}' is not the name of an image; import a "
                "file or URL with `lab image import` and write its name",
                (*path, "image"),
            )

        if form.cdrom not in {None, EMPTY_DRIVE} and not _is_image(form.cdrom or ""):
            self._wrong(
                f"node {name}: cdrom '{(form.cdrom or '')[:64]}' is not the name of an image; "
                "write that of an iso (`lab image ls`), or empty",
                (*path, "cdrom"),
            )

    def _check_sizes(self, name: str, form: NodeForm, path: Path) -> None:
        if form.memory is not None and not _MIB <= form.memory <= 4 * _TIB:
            self._wrong(f"node {name}: memory must be 1 MiB to 4 TiB", (*path, "memory"))
        sizes: list[tuple[int | None, Path]] = [(form.disk, ("disk",))]
        sizes += [(item.size, ("disks", disk, "size")) for disk, item in form.disks.items()]
        for size, at in sizes:
            if size is not None and not _MIB <= size <= 64 * _TIB:
                self._wrong(f"node {name}: a disk must have 1 MiB to 64 TiB", (*path, *at))
            elif size is not None and size % _SECTOR:
                self._wrong(
                    f"node {name}: a disk must be a multiple of {_SECTOR} bytes, not {size}",
                    (*path, *at),
                )
        for disk in form.disks:
            where = f"node {name}, disk {disk}"
            if disk == "root":
                self._wrong(
                    f"{where}: the first disk is called that; choose another",
                    (*path, "disks", disk),
                    key=True,
                )
            elif len(disk) > _DISK_NAME:
                self._wrong(
                    f"{where}: a guest sees only {_DISK_NAME} characters; choose a shorter name",
                    (*path, "disks", disk),
                    key=True,
                )

    def _nics(
        self, node: str, form: NodeForm, path: Path
    ) -> tuple[tuple[NicSpec, ...], list[Interface]]:
        specs: list[NicSpec] = []
        own: list[Interface] = []
        for name, nic in form.nics.items():
            at: Path = (*path, "nics", name)
            self._check_network(f"node {node}, nic {name}", nic, at)
            down, sends = self.links.nic(f"node {node}, nic {name}", nic, at)
            interfaces, gateway = self.addressing.nic(node, name, nic, at)
            own += interfaces
            specs.append(
                NicSpec(
                    name=name,
                    network=nic.network or "",
                    mac=self.addressing.mac(node, name, nic, (*at, "mac")),
                    addresses=tuple(str(interface) for interface in interfaces),
                    gateway=gateway,
                    model=nic.model,
                    dhcp=nic.address == BY_DHCP,
                    down=down,
                    sends=sends,
                )
            )
        self._check_default_routes(node, form, path)
        return tuple(specs), own

    def _check_network(self, where: str, nic: NicForm, path: Path) -> None:
        if nic.network is None:
            self._wrong(f"{where} needs the key 'network'; it is no end of a link", path, key=True)
        elif nic.network not in self.segments:
            near = did_you_mean(nic.network, self.segments) or "; declare it under networks:"
            self._wrong(f"{where}: there is no network '{nic.network}'{near}", (*path, "network"))

    def _check_default_routes(self, node: str, form: NodeForm, path: Path) -> None:
        taken: dict[bool, str] = {}
        gateways: list[tuple[str, str, Path]] = [
            (f"nic {name}", nic.gateway, (*path, "nics", name, "gateway"))
            for name, nic in form.nics.items()
            if nic.gateway not in ("", NO_GATEWAY)
        ]
        gateways += [
            (f"route {index + 1}", route.via, (*path, "routes", index))
            for index, route in enumerate(form.routes)
            if route.to == "default"
        ]
        for owner, via, at in gateways:
            first = taken.setdefault(":" in via, owner)
            if first != owner:
                self._wrong(
                    f"node {node}: {owner} is a second default route besides that of {first}; "
                    "keep one",
                    at,
                )

    def _restart(self, name: str, form: NodeForm, path: Path) -> RestartPolicy:
        restart = form.restart
        if not 1 <= restart.window <= 86400:
            self._wrong(
                f"node {name}: restart window must be 1s to 1d", (*path, "restart", "window")
            )
        return RestartPolicy(mode=restart.mode, limit=restart.limit, window=restart.window)


def _is_image(name: str) -> bool:
    return is_name(name) or _IMAGE.match(name) is not None
