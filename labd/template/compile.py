"""From a checked form to a `LabSpec`: references, addresses, dependencies, and what is derived."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from labd.model.names import did_you_mean, is_name, stable_mac
from labd.model.specs import (
    BootDevice,
    Dependency,
    DiskBus,
    DiskSpec,
    Display,
    Firmware,
    LabSpec,
    Machine,
    NetworkSpec,
    NicModel,
    NicSpec,
    NodeSpec,
    Readiness,
    RestartPolicy,
    RouteSpec,
)
from labd.template.document import Document, Path, Problems
from labd.template.form import LabForm, NetworkForm, NicForm, NodeForm

MAX_NODES = 500
_MAX_NICS = 16
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
_IMAGE = re.compile(r"sha256:[0-9a-f]{64}\Z")
_UPLINK = re.compile(r"none\Z|nat\Z|bridge:[A-Za-z0-9_.-]{1,15}\Z")
# (a+)+ and the like take a time that is exponential in the length of the line.
_NESTED_REPEAT = re.compile(r"\([^()]*[+*][^()]*\)[+*{]")

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def compile_lab(form: LabForm, document: Document, problems: Problems, *, digest: str) -> LabSpec:
    """Return the spec; what is wrong goes to `problems`, and the spec is then of no use."""
    return _Compiler(form, document, problems).lab(digest)


@dataclass
class _Compiler:
    form: LabForm
    document: Document
    problems: Problems
    subnets: dict[str, Subnet] = field(default_factory=dict)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)

    def wrong(self, message: str, path: Path, *, key: bool = False) -> None:
        place = self.document.key_place(path) if key else self.document.place(path)
        self.problems.add(message, place)

    def lab(self, digest: str) -> LabSpec:
        form = self.form
        self._give_links_their_ends()
        networks = tuple(self._networks())
        if len(form.nodes) > MAX_NODES:
            self.wrong(f"a lab has at most {MAX_NODES} nodes, not {len(form.nodes)}", ("nodes",))
        nodes = tuple(self._node(name, node) for name, node in form.nodes.items())
        self._check_cycles()
        return LabSpec(
            template=form.name,
            description=form.description.strip(),
            parameters=dict(form.parameters),
            digest=digest,
            nodes=nodes,
            networks=networks,
        )

    # networks

    def _networks(self) -> Iterator[NetworkSpec]:
        for section, forms in (("networks", self.form.networks), ("links", self.form.links)):
            for name, network in forms.items():
                path: Path = (section, name)
                if section == "links" and name in self.form.networks:
                    self.wrong(f"link {name}: a network has that name already", path, key=True)
                if not _UPLINK.match(network.uplink):
                    self.wrong(
                        f"{section[:-1]} {name}: uplink must be none, nat or bridge:INTERFACE",
                        (*path, "uplink"),
                    )
                self._subnet(name, network, path)
                yield NetworkSpec(
                    name=name,
                    link=section == "links",
                    subnet=str(self.subnets.get(name, "")),
                    uplink=network.uplink,
                    mtu=network.mtu,
                )

    def _subnet(self, name: str, network: NetworkForm, path: Path) -> None:
        if not network.subnet:
            return
        path = (*path, "subnet")
        try:
            subnet = ipaddress.ip_network(network.subnet)
        except ValueError:
            try:
                near = ipaddress.ip_network(network.subnet, strict=False)
            except ValueError:
                self.wrong(
                    f"network {name}: '{network.subnet[:64]}' is no subnet; write it like "
                    "10.0.1.0/24",
                    path,
                )
            else:
                self.wrong(
                    f"network {name}: '{network.subnet}' is an address in a subnet; write {near}",
                    path,
                )
            return
        for other, taken in self.subnets.items():
            if taken.version == subnet.version and taken.overlaps(subnet):
                self.wrong(
                    f"network {name}: subnet {subnet} overlaps {taken} of network {other}", path
                )
        self.subnets[name] = subnet

    def _give_links_their_ends(self) -> None:
        for name, link in self.form.links.items():
            path: Path = ("links", name, "ends")
            if len(link.ends) != 2:
                self.wrong(f"link {name}: has exactly two ends, not {len(link.ends)}", path)
                continue
            for index, end in enumerate(link.ends):
                self._give_end(name, end, (*path, index))
            declared = [
                f"{node}:{nic}"
                for node, form in self.form.nodes.items()
                for nic, nic_form in form.nics.items()
                if nic_form.network == name
            ]
            for extra in sorted(set(declared) - set(link.ends)):
                node, _, nic = extra.partition(":")
                self.wrong(
                    f"node {node}, nic {nic}: link {name} ends at {' and '.join(link.ends)}; use a "
                    "network for more",
                    ("nodes", node, "nics", nic, "network"),
                )

    def _give_end(self, link: str, end: str, path: Path) -> None:
        node, colon, nic = end.partition(":")
        if not colon or not is_name(nic):
            self.wrong(f"link {link}: end '{end[:64]}' must be NODE:NIC, like router:eth1", path)
            return
        form = self.form.nodes.get(node)
        if form is None:
            self.wrong(
                f"link {link}: there is no node '{node[:64]}'{did_you_mean(node, self.form.nodes)}",
                path,
            )
            return
        there = form.nics.get(nic)
        if there is None:
            form.nics[nic] = NicForm(network=link)
        elif there.network != link:
            self.wrong(f"link {link}: {end} is in network {there.network} already", path)

    # nodes

    def _node(self, name: str, form: NodeForm) -> NodeSpec:
        path: Path = ("nodes", name)
        self._check_source(name, form, path)
        self._check_machine(name, form, path)
        if len(form.nics) > _MAX_NICS:
            self.wrong(f"node {name}: has at most {_MAX_NICS} nics", (*path, "nics"))
        if len(set(form.boot)) != len(form.boot) or not form.boot:
            self.wrong(f"node {name}: boot names each device once", (*path, "boot"))
        return NodeSpec(
            name=name,
            image=form.image,
            profile=form.profile or "",
            vcpus=form.vcpus,
            memory=form.memory,
            disk=form.disk,
            disks=tuple(
                DiskSpec(name=disk, size=item.size, bus=item.bus or form.disk_bus)
                for disk, item in form.disks.items()
            ),
            disk_bus=form.disk_bus,
            firmware=form.firmware,
            machine=form.machine,
            display=form.display,
            boot=tuple(form.boot),
            accel=form.accel,
            restart=RestartPolicy(
                mode=form.restart.mode, limit=form.restart.limit, window=form.restart.window
            ),
            cmdline=form.cmdline,
            nics=tuple(self._nic(name, nic, item) for nic, item in form.nics.items()),
            routes=tuple(self._routes(name, form, path)),
            forwarding=form.forwarding,
            commands=tuple(tuple(argv) for argv in form.commands),
            depends_on=tuple(self._dependencies(name, form, path)),
            ready=self._ready(name, form, path),
        )

    def _check_source(self, name: str, form: NodeForm, path: Path) -> None:
        if not form.image and not form.profile:
            self.wrong(f"node {name} needs the key 'image' or 'profile'", path, key=True)
        elif form.image and not is_name(form.image) and not _IMAGE.match(form.image):
            self.wrong(
                f"node {name}: image '{form.image[:64]}' is not the name of an image; paths are "
                "not allowed, import the file with `lab image import`",
                (*path, "image"),
            )
        if form.memory is not None and not 1 << 20 <= form.memory <= 4 << 40:
            self.wrong(f"node {name}: memory must be 1 MiB to 4 TiB", (*path, "memory"))
        for key, size in (
            ("disk", form.disk),
            *((f"disks/{k}", d.size) for k, d in form.disks.items()),
        ):
            if size is not None and not 1 << 20 <= size <= 64 << 40:
                where = (*path, *key.split("/"), *(("size",) if "/" in key else ()))
                self.wrong(f"node {name}: a disk must have 1 MiB to 64 TiB", where)

    def _check_machine(self, name: str, form: NodeForm, path: Path) -> None:
        if form.machine is not Machine.MICROVM:
            return
        limits = (
            ("firmware", form.firmware is not Firmware.BIOS),
            ("display", form.display is not Display.NONE),
            ("disk_bus", form.disk_bus is not DiskBus.VIRTIO),
            ("nics", any(nic.model is not NicModel.VIRTIO for nic in form.nics.values())),
            ("boot", BootDevice.NETWORK in form.boot),
        )
        for key, broken in limits:
            if broken:
                self.wrong(
                    f"node {name}: machine microvm has no PCI, so {key} must be left at its "
                    "default; or use machine q35",
                    (*path, key),
                )

    def _nic(self, node: str, name: str, form: NicForm) -> NicSpec:
        path: Path = ("nodes", node, "nics", name)
        where = f"node {node}, nic {name}"
        known = {**self.form.networks, **self.form.links}
        if form.network not in known:
            self.wrong(
                f"{where}: there is no network '{form.network}'"
                f"{did_you_mean(form.network, known) or '; declare it under networks:'}",
                (*path, "network"),
            )
        if form.address and form.addresses:
            self.wrong(f"{where}: write address or addresses, not both", path, key=True)
        texts = [form.address] if form.address else form.addresses
        addresses = []
        for index, text in enumerate(texts):
            place: Path = (*path, "address") if form.address else (*path, "addresses", index)
            found = self._address(where, text, form.network, place)
            if found is not None:
                addresses.append(found)
        gateway = self._gateway(where, form, addresses, (*path, "gateway"))
        return NicSpec(
            name=name,
            network=form.network,
            mac=self._mac(node, name, form, (*path, "mac")),
            addresses=tuple(str(address) for address in addresses),
            gateway=gateway,
            model=form.model,
        )

    def _mac(self, node: str, name: str, form: NicForm, path: Path) -> str:
        mac = form.mac.lower() or stable_mac(self.form.name, node, name)
        where = f"node {node}, nic {name}"
        if not _MAC.match(mac):
            self.wrong(
                f"{where}: '{form.mac[:64]}' is no MAC address; write it like 02:00:00:00:00:01",
                path,
            )
        elif int(mac[:2], 16) & 1:
            self.wrong(
                f"{where}: {mac} is a multicast MAC address; make its first octet even", path
            )
        elif mac in self.macs:
            self.wrong(f"{where}: MAC address {mac} is {self.macs[mac]}'s already", path)
        self.macs.setdefault(mac, f"{node}/{name}")
        return mac

    def _address(self, where: str, text: str, network: str, path: Path) -> Address | None:
        address: Address | None = None
        with suppress(ValueError):
            address = ipaddress.ip_interface(text) if "/" in text else None
        if address is None:
            self.wrong(
                f"{where}: '{text[:64]}' is no address with prefix length; write it like "
                "10.0.1.10/24",
                path,
            )
            return None
        subnet = self.subnets.get(network)
        if subnet is not None and subnet.version == address.version:
            if address.ip not in subnet:
                self.wrong(
                    f"{where}: {address.ip} is not in {subnet}, the subnet of network {network}",
                    path,
                )
            elif address.network != subnet:
                self.wrong(
                    f"{where}: network {network} has prefix length {subnet.prefixlen}; write "
                    f"{address.ip}/{subnet.prefixlen}",
                    path,
                )
        edges = {address.network.network_address, address.network.broadcast_address}
        if address.version == 4 and address.network.prefixlen < 31 and address.ip in edges:
            self.wrong(
                f"{where}: {address.ip} is the network or broadcast address of {address.network}",
                path,
            )
        taken = self.addresses.setdefault((network, str(address.ip)), where)
        if taken != where:
            self.wrong(f"{where}: {address.ip} is the address of {taken} already", path)
        return address

    def _gateway(self, where: str, form: NicForm, addresses: list[Address], path: Path) -> str:
        if not form.gateway:
            return ""
        try:
            gateway = ipaddress.ip_address(form.gateway)
        except ValueError:
            self.wrong(
                f"{where}: gateway '{form.gateway[:64]}' is no address; write it like 10.0.1.1",
                path,
            )
            return ""
        if not any(gateway in address.network for address in addresses):
            self.wrong(f"{where}: gateway {gateway} is in no subnet of this nic's addresses", path)
        elif any(gateway == address.ip for address in addresses):
            self.wrong(f"{where}: gateway {gateway} is the nic's own address", path)
        return str(gateway)

    def _routes(self, name: str, form: NodeForm, path: Path) -> Iterator[RouteSpec]:
        for index, route in enumerate(form.routes):
            where: Path = (*path, "routes", index)
            try:
                to = "default" if route.to == "default" else str(ipaddress.ip_network(route.to))
            except ValueError:
                self.wrong(
                    f"node {name}: route to '{route.to[:64]}': write a subnet like 10.0.2.0/24, or "
                    "default",
                    (*where, "to"),
                )
                continue
            try:
                yield RouteSpec(to=to, via=str(ipaddress.ip_address(route.via)))
            except ValueError:
                self.wrong(
                    f"node {name}: route via '{route.via[:64]}': write an address like 10.0.1.1",
                    (*where, "via"),
                )

    def _dependencies(self, name: str, form: NodeForm, path: Path) -> Iterator[Dependency]:
        for other, condition in form.depends_on.items():
            where: Path = (*path, "depends_on", other)
            if other == name:
                self.wrong(f"node {name}: depends on itself", where, key=True)
            elif other not in self.form.nodes:
                self.wrong(
                    f"node {name}: depends on '{other}', and there is no such node"
                    f"{did_you_mean(other, self.form.nodes)}",
                    where,
                    key=True,
                )
            else:
                yield Dependency(node=other, condition=condition)

    def _ready(self, name: str, form: NodeForm, path: Path) -> Readiness:
        ready = form.ready
        path = (*path, "ready")
        ways = [w for w in ("console", "tcp", "agent", "command") if getattr(ready, w)]
        if len(ways) > 1:
            self.wrong(f"node {name}: ready takes one of {', '.join(ways)}", path)
        if ready.console:
            self._check_pattern(name, ready.console, (*path, "console"))
        if ready.tcp and not any(n.address or n.addresses for n in form.nics.values()):
            self.wrong(f"node {name}: ready tcp needs a nic with an address", (*path, "tcp"))
        if not 0 < ready.timeout <= 86400:
            self.wrong(f"node {name}: ready timeout must be 1s to 1d", (*path, "timeout"))
        return Readiness(
            console=ready.console,
            tcp_port=ready.tcp,
            agent=ready.agent,
            command=tuple(ready.command),
            timeout=ready.timeout,
        )

    def _check_pattern(self, name: str, pattern: str, path: Path) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            self.wrong(f"node {name}: ready console: not a regular expression: {error}", path)
            return
        if _NESTED_REPEAT.search(pattern) or re.search(r"\\[1-9]|\(\?P=", pattern):
            self.wrong(
                f"node {name}: ready console: nested repeats and back-references are not allowed",
                path,
            )

    def _check_cycles(self) -> None:
        """Tell each cycle of dependencies once, by its members."""
        done: set[str] = set()
        for start in self.form.nodes:
            trail: list[str] = []
            cycle = self._cycle(start, trail, done)
            if cycle:
                self.wrong(
                    f"node {cycle[0]}: depends on itself: {' -> '.join([*cycle, cycle[0]])}",
                    ("nodes", cycle[0], "depends_on"),
                    key=True,
                )
                return

    def _cycle(self, name: str, trail: list[str], done: set[str]) -> list[str]:
        if name in trail:
            return trail[trail.index(name) :]
        if name in done or name not in self.form.nodes:
            return []
        trail.append(name)
        for other in self.form.nodes[name].depends_on:
            if other != name and (found := self._cycle(other, trail, done)):
                return found
        trail.pop()
        done.add(name)
        return []
