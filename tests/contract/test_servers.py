"""What the engine may rely on of servers, on the fake and on real dnsmasqs alike."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from labd.drivers.network.linux import LabNetworks, LabServers, dnsmasq
from labd.drivers.network.linux.plan import plan
from labd.drivers.network.port import Servers
from labd.model.errors import NetworkFailed
from labd.model.network import LabNetworkPlan
from labd.model.serving import ServerChange, ServerState
from labd.template import load
from tests.fakes.services import FakeServers

UID = 700_960
MAC = "02:00:00:00:00:01"
TEMPLATE = f"""name: t
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: true, dns: true}}}}
nodes: {{n: {{image: tiny, nics: {{e: {{network: lan, address: 10.0.0.5/24, mac: "{MAC}"}}}}}}}}
"""


@dataclass
class Rig:
    servers: Servers
    root: str
    networks: LabNetworks | None = None
    folder: Path = Path()
    changes: list[ServerChange] = field(default_factory=list)

    async def plan(self, lab: str, text: str = TEMPLATE) -> LabNetworkPlan:
        made = plan(load(text, "t.yaml"), lab, self.root, {})
        if self.networks is not None:
            await self.networks.apply(made)
        return made

    async def states(self, count: int) -> list[ServerState]:
        async with asyncio.timeout(10):
            while len(self.changes) < count:
                await asyncio.sleep(0.02)
        return [change.state for change in self.changes]


@pytest.fixture(params=["fake", "dnsmasq"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="labd-se-"))
    folder.chmod(0o755)
    root = secrets.token_hex(4)
    made: Rig
    if request.param == "fake":
        made = Rig(servers=FakeServers(), root=root)
    else:
        if os.geteuid() != 0:
            pytest.fail("real servers need root")
        networks = LabNetworks(root)
        servers = LabServers(folder / "d", UID)
        made = Rig(servers=servers, root=root, networks=networks, folder=folder / "d")
    made.servers.listen(made.changes.append)
    try:
        yield made
        await made.servers.sweep([])
        assert dnsmasq.scan(folder / "d", UID) == []
    finally:
        await made.servers.close()
        if made.networks is not None:
            for name in await made.networks.namespaces():
                await made.networks.remove(name)
        shutil.rmtree(folder)


async def test_a_server_is_there_until_it_is_removed(rig: Rig) -> None:
    wanted = await rig.plan("aaaaaa")
    await rig.servers.check(wanted)
    await rig.servers.apply(wanted)
    await rig.servers.apply(wanted)
    assert (await rig.states(1))[0] is ServerState.LEASES
    assert await rig.servers.leases(wanted.namespace) == []
    assert await rig.servers.neighbours(wanted.namespace) == []
    await rig.servers.remove(wanted.namespace)
    await rig.servers.remove(wanted.namespace)
    assert await rig.servers.sweep([]) == []


async def test_a_plan_without_a_server_ends_it(rig: Rig) -> None:
    wanted = await rig.plan("aaaaaa")
    await rig.servers.apply(wanted)
    await rig.servers.apply(replace(wanted, server=None))
    assert await rig.servers.sweep([]) == []
    await rig.servers.apply(replace(wanted, server=None))


async def test_a_sweep_ends_the_servers_of_labs_that_are_no_more(rig: Rig) -> None:
    kept, lost = await rig.plan("aaaaaa"), await rig.plan("bbbbbb")
    await rig.servers.apply(kept)
    await rig.servers.apply(lost)
    await rig.servers.close()
    assert len(await rig.servers.sweep([kept.namespace])) == 1
    assert len(await rig.servers.sweep([])) == 1


@pytest.fixture
async def real(rig: Rig) -> Rig:
    """Return the rig of real dnsmasqs."""
    assert rig.networks is not None
    return rig


only_real = pytest.mark.parametrize("rig", ["dnsmasq"], indirect=True)


def running(rig: Rig) -> list[tuple[int, str]]:
    return [(f.process.pid, f.digest) for f in dnsmasq.scan(rig.folder, UID)]


@only_real
async def test_another_daemon_takes_over_what_serves_the_same(real: Rig) -> None:
    wanted = await real.plan("aaaaaa")
    await real.servers.apply(wanted)
    (before,) = running(real)
    await real.servers.close()
    assert running(real) == [before]
    again = LabServers(real.folder, UID)
    again.listen(real.changes.append)
    await again.apply(wanted)
    assert running(real) == [before]
    other = await real.plan("aaaaaa", TEMPLATE.replace("dhcp: true", "dhcp: {lease: 3h}"))
    await again.apply(other)
    (after,) = running(real)
    assert after != before
    assert [path.suffix for path in (real.folder / "aaaaaa").glob("*.conf")] == [".conf"]
    await again.remove(wanted.namespace)
    assert running(real) == []


@only_real
async def test_one_in_another_namespace_is_not_taken_over(real: Rig) -> None:
    wanted = await real.plan("aaaaaa")
    await real.servers.apply(wanted)
    (before,) = running(real)
    await real.servers.close()
    assert real.networks is not None
    await real.networks.remove(wanted.namespace)
    wanted = await real.plan("aaaaaa")
    again = LabServers(real.folder, UID)
    await again.apply(wanted)
    (after,) = running(real)
    assert after != before
    await again.close()


@only_real
async def test_one_that_does_not_start_leaves_nothing_and_says_why(real: Rig) -> None:
    wanted = await real.plan("aaaaaa")
    assert wanted.server is not None
    wrong = replace(wanted.server, config=wanted.server.config + "nonsense\n")
    with pytest.raises(NetworkFailed, match="dnsmasq did not start .*bad option"):
        await real.servers.apply(replace(wanted, server=wrong))
    assert running(real) == []
    assert list(real.folder.iterdir()) == []


@only_real
async def test_its_log_is_bounded(real: Rig) -> None:
    wanted = await real.plan("aaaaaa")
    await real.servers.apply(wanted)
    log = real.folder / "aaaaaa" / "log"
    with log.open("ab") as file:
        file.write(b"x" * 200_000)
    dnsmasq.bound_log(real.folder / "aaaaaa")
    assert log.stat().st_size == 0
    assert log.with_name("log.1").stat().st_size == 64 << 10
    assert dnsmasq.last_words(real.folder / "aaaaaa") == ""


def ask(namespace: str, requests: list[tuple[str, str]]) -> int:
    """Send DHCPREQUESTs (RFC 2131, as a client that reboots) of (MAC, address) from a port of the
    bridge, and return how many answers came in the second after the last.
    """
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
    for command in (
        "ip link add f0 type veth peer name f1",
        "ip link set f1 master br-lan up",
        "ip link set f0 up",
    ):
        subprocess.run([*inside, *command.split()], check=True)
    done = subprocess.run(
        [*inside, sys.executable, "-c", _ASK],
        input=json.dumps(requests).encode(),
        capture_output=True,
        check=True,
    )
    subprocess.run([*inside, "ip", "link", "del", "f0"], check=True)
    return int(done.stdout)


_ASK = """
import ipaddress, json, socket, struct, sys, time
channel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
channel.bind(("f0", 0))
answers = 0
def hear(wait):
    global answers
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        channel.settimeout(left)
        try:
            data = channel.recv(2048)
        except TimeoutError:
            return
        # UDP from port 67, and the message type option says DHCPACK.
        answers += data[34:36] == b"\\0\\x43" and b"\\x35\\1\\5" in data
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
for number, (mac, address) in enumerate(json.load(sys.stdin)):
    link = bytes.fromhex(mac.replace(":", ""))
    boot = struct.pack(">BBBBIHH16s16s64s128sI", 1, 1, 6, 0, number + 1, 0, 0x8000, bytes(16),
                       link, bytes(64), bytes(128), 0x63825363)
    boot += b"\\x35\\1\\3\\x32\\4" + ipaddress.ip_address(address).packed + b"\\xff" + bytes(40)
    udp = struct.pack(">HHHH", 68, 67, 8 + len(boot), 0) + boot
    head = struct.pack(">BBHHHBBHI4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, 0, b"\\xff" * 4)
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    channel.send(b"\\xff" * 6 + link + b"\\x08\\0" + head + udp)
    hear(0.002)
hear(1.0)
print(answers)
"""


@only_real
async def test_a_flood_takes_the_range_and_no_more(real: Rig) -> None:
    text = TEMPLATE.replace("10.0.0.0/24", "10.0.0.0/16").replace("10.0.0.5/24", "10.0.0.5/16")
    wanted = await real.plan("aaaaaa", text)
    await real.servers.apply(wanted)
    pool = [f"10.0.{252 + i // 256}.{i % 256}" for i in range(1021)]
    strangers = [(f"02:99:00:00:{i >> 8:02x}:{i & 255:02x}", a) for i, a in enumerate(pool)]
    strangers += [(f"02:98:00:00:{i >> 8:02x}:{i & 255:02x}", a) for i, a in enumerate(pool)]
    given = await asyncio.to_thread(ask, wanted.namespace, strangers)
    found = await real.servers.leases(wanted.namespace)
    assert 900 < len(found) <= 1000
    assert given <= 1000
    assert "10.0.0.5" not in {lease.address for lease in found}
    await asyncio.to_thread(ask, wanted.namespace, [(MAC, "10.0.0.5")])
    found = await real.servers.leases(wanted.namespace)
    assert ("10.0.0.5", MAC) in {(lease.address, lease.mac) for lease in found}
    ((pid, _),) = running(real)
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert int(kib) < 16 << 10
    assert (await real.states(2))[1] is ServerState.LEASES


@only_real
async def test_a_bridge_that_is_made_anew_is_heard(real: Rig) -> None:
    wanted = await real.plan("aaaaaa")
    await real.servers.apply(wanted)
    inside = ["nsenter", f"--net=/run/netns/{wanted.namespace}", "--"]
    subprocess.run([*inside, "ip", "link", "del", "br-lan"], check=True)
    wanted = await real.plan("aaaaaa")
    await real.servers.apply(wanted)
    assert await asyncio.to_thread(ask, wanted.namespace, [(MAC, "10.0.0.5")]) == 1
