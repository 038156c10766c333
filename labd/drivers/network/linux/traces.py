"""What the kernel has of a root's networks besides named namespaces (`core.ports_traces`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labd.drivers.network.linux import dnsmasq, links, netns, nft
from labd.drivers.network.linux import uplink_interfaces as ways
from labd.drivers.network.linux.names import link_group, table_name
from labd.drivers.network.linux.rules import no_rules
from labd.host.evidence import entries
from labd.host.identity import read_argv
from labd.host.threads import quick
from labd.model.differences import Sort, Trace
from labd.model.errors import NetworkFailed

_PROC = Path("/proc")
_NET = "net:["


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A namespace of this root that has no name any more.

    Attributes:
        inode: That the kernel shows it by.
        pid: Of a process that is in it, or that has it open.
    """

    inode: int
    pid: int


class NetworkTraces:
    """Traces of one root.

    Args:
        root_id: Marks what is this root's.
        servers: Folder of the labs' dnsmasqs.
        uid: The user that these run as.
    """

    def __init__(self, root_id: str, servers: Path, uid: int) -> None:
        self._mark = f"labd:{root_id}"
        self._prefix = f"labd-{root_id}-"
        self._veth = f"v{root_id}"
        self._group = link_group(root_id)
        self._servers = servers
        self._uid = uid

    async def find(self) -> Sequence[Trace]:
        """Return interfaces and tables of the host, dnsmasqs, and namespaces without a name."""
        host = await quick(ways.look)
        tables = await nft.chains(f"{table_name(self._prefix)}")
        found = [*self._of_links(host), *map(self._of_table, sorted(tables))]
        found += [foreign async for foreign in self._foreign()]
        for server in await quick(dnsmasq.scan, self._servers, self._uid):
            pid = server.process.pid
            found.append(
                Trace(
                    sort=Sort.SERVER,
                    name=str(pid),
                    owner=server.folder.name,
                    text=f"dnsmasq {pid}, which reads {server.folder},",
                    remedy="end it",
                )
            )
        for pinned in await self._pinned():
            argv = " ".join(read_argv(pinned.pid)[:3]) or "it has ended"
            found.append(
                Trace(
                    sort=Sort.NAMESPACE,
                    name=f"{_NET}{pinned.inode}]",
                    owner="",
                    text=f"a namespace of labd's has lost its name, and process {pinned.pid} "
                    f"({argv}) keeps it; end that process",
                )
            )
        return found

    async def _foreign(self) -> AsyncIterator[Trace]:
        for name in await quick(netns.names, self._prefix):
            with suppress(NetworkFailed):  # it has gone meanwhile
                if await netns.inside(name, lambda: links.is_foreign(self._mark)):
                    yield _of_stranger(name, f"namespace {name}", f"ip netns del {name}")

    def _of_links(self, host: ways.Host) -> list[Trace]:
        found = []
        for name, alias in sorted(host.links.items()):
            if alias.startswith(f"{self._mark}:"):
                owner = alias.partition(" ")[0].rpartition(":")[2]
            elif not name.startswith(self._veth):
                continue
            elif not alias and host.groups[name] == self._group:
                owner = name.removeprefix(self._veth)  # its maker died before it was marked
            else:
                text = f"interface {name} of the host"
                found.append(_of_stranger(name, text, f"ip link del {name}"))
                continue
            found.append(
                Trace(
                    sort=Sort.UPLINK,
                    name=name,
                    owner=owner,
                    text=f"interface {name} of the host, by which a lab had its uplink,",
                    remedy="remove it",
                )
            )
        return found

    def _of_table(self, name: str) -> Trace:
        return Trace(
            sort=Sort.UPLINK,
            name=name,
            owner=name.rpartition("_")[2],
            text=f"nftables table {name} of the host",
            remedy="remove it",
        )

    async def _pinned(self) -> list[Pinned]:
        found = []
        for inode, place in (await quick(_nameless)).items():
            with suppress(NetworkFailed):  # it has gone meanwhile
                # An absolute path takes the place of the folder of names.
                mark = await netns.inside(str(place), links.mark_of_namespace)
                if mark.partition(" ")[0] == self._mark:
                    found.append(Pinned(inode=inode, pid=int(place.parts[2])))
        return found

    async def remove(self, trace: Trace) -> None:
        """Remove an interface, a table or a dnsmasq; see the port."""
        if trace.sort is Sort.SERVER:
            for server in await quick(dnsmasq.scan, self._servers, self._uid):
                if str(server.process.pid) == trace.name:
                    await dnsmasq.end(server.process)
        elif trace.name.startswith(table_name(self._prefix)):
            await nft.load(no_rules(trace.name))
        elif trace.sort is Sort.UPLINK:
            await quick(ways.delete, [trace.name])


def _of_stranger(name: str, what: str, remedy: str) -> Trace:
    return Trace(
        sort=Sort.FOREIGN,
        name=name,
        owner="",
        text=f"{what} has a name of labd's and was not made by it; labd leaves it alone: rename "
        f"or delete it, for example with {remedy}",
    )


def _nameless() -> dict[int, Path]:
    """Return inode -> a place of /proc to open it by, of network namespaces without a name.

    Those of which all users are QEMUs are left out: they are empty, and each QEMU has one.
    """
    known = {_inode(netns.FOLDER / name) for name in netns.names("")} | {
        _inode(_PROC / "self/ns/net")
    }
    device = os.stat(_PROC / "self/ns/net").st_dev
    found: dict[int, Path] = {}
    for entry in entries(_PROC):
        if not entry.isdecimal():
            continue
        space = _PROC / entry / "ns/net"
        inode = _inode(space)
        if inode not in known and inode not in found and not _is_qemu(int(entry)):
            found[inode] = space
        for fd in entries(_PROC / entry / "fd"):
            place = _PROC / entry / "fd" / fd
            with suppress(OSError):
                # One that was opened by a name which has gone is shown as the root of a mount.
                if os.readlink(place).startswith(_NET) or os.readlink(place) == "/":
                    status = os.stat(place)
                    if status.st_dev == device and status.st_ino not in known:
                        found.setdefault(status.st_ino, place)
    found.pop(0, None)
    return found


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _is_qemu(pid: int) -> bool:
    return any("qemu-system" in word for word in read_argv(pid)[:1])
