"""The tiny guest alone, without labd: it becomes what it is told, and evaluates nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from labd.images.tiny import CMDLINE, READY_PATTERN, build
from labd.model.errors import StorageFailed
from labd.model.guestconfig import guest_config
from labd.model.specs import NicSpec, NodeSpec, RouteSpec
from tests.system.harness import CACHE

# The interface names are the reverse of the order in which the kernel finds the cards.
ROUTER = NodeSpec(
    name="router",
    nics=(
        NicSpec(name="eth1", network="a", mac="02:00:00:00:00:01", addresses=("10.0.1.1/24",)),
        NicSpec(
            name="eth0",
            network="b",
            mac="02:00:00:00:00:02",
            addresses=("10.0.2.1/24", "fd00::1/64"),
            gateway="10.0.2.254",
        ),
    ),
    routes=(RouteSpec(to="10.9.0.0/16", via="10.0.1.9"),),
    forwarding=True,
    commands=(
        ("sh", "-c", 'printf "%s|" "$@" >/run/args', "sh", "two words", "$(id)", "*", "`id`;|&"),
        ("false",),
        ("sleep", "1000"),
        ("sh", "-c", "test -s /run/args && touch /run/later"),
    ),
)


@pytest.fixture
def guest(built_tiny: None, tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    said = subprocess.run(
        [sys.executable, "-m", "labd.images.tiny", "--cache", str(CACHE)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    parts = dict(line.split(None, 1) for line in said.splitlines())
    assert parts["cmdline"] == CMDLINE
    config = tmp_path / "config"
    config.write_bytes(
        guest_config(
            ROUTER,
            hosts={"client": "10.0.1.2"},
            mtus={"b": 1400},
            authorized_keys=["ssh-ed25519 AAAA $(touch /run/evil)"],
        )
    )
    argv = ["-nodefaults", "-no-user-config", "-machine", "q35,accel=tcg", "-m", "128"]
    argv += ["-display", "none", "-serial", "stdio", "-append", parts["cmdline"]]
    argv += ["-kernel", parts["kernel"], "-initrd", parts["initrd"]]
    argv += ["-fw_cfg", f"name=opt/io.labd/config,file={config}"]
    for number, nic in enumerate(ROUTER.nics, start=1):  # hubs of their own: nothing leaves QEMU
        argv += ["-netdev", f"hubport,id=n{number},hubid={number}"]
        argv += ["-device", f"virtio-net-pci,netdev=n{number},mac={nic.mac}"]
    child = pexpect.spawn("qemu-system-x86_64", argv, encoding="utf-8", timeout=60, echo=False)
    child.setwinsize(24, 500)
    try:
        yield child
    finally:
        child.close(force=True)


def ask(guest: pexpect.spawn[str], command: str) -> str:
    """Return what a command of the guest's shell prints."""
    guest.sendline(f"{command}; echo end''ed")
    guest.expect(r"ended\s+")
    assert guest.before is not None
    return guest.before.replace("\r", "")


def test_it_becomes_what_it_is_told(guest: pexpect.spawn[str]) -> None:
    guest.expect(r"labd: failed: run false: exit status 1")
    guest.expect(READY_PATTERN.removeprefix("^") + r"router\s")
    guest.expect("router:~# ")
    assert "router" in ask(guest, "hostname")
    addresses = ask(guest, "ip -o addr")
    for expected in ("eth1    inet 10.0.1.1/24", "eth0    inet 10.0.2.1/24", "fd00::1/64"):
        assert expected in addresses
    assert "tentative" not in addresses
    assert "02:00:00:00:00:02" in ask(guest, "cat /sys/class/net/eth0/address")
    assert "1400" in ask(guest, "cat /sys/class/net/eth0/mtu")
    routes = ask(guest, "ip route")
    assert "default via 10.0.2.254 dev eth0" in routes
    assert "10.9.0.0/16 via 10.0.1.9 dev eth1" in routes
    assert "10.0.1.2\tclient" in ask(guest, "cat /etc/hosts")
    forwarding = "/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    assert "1\n1\n" in ask(guest, f"cat {forwarding}")
    # Each argument came as it was written, the one that stays did not stop those after it.
    assert "two words|$(id)|*|`id`;|&|" in ask(guest, "cat /run/args")
    assert "/run/later" in ask(guest, "ls /run/later")
    assert "AAAA $(touch /run/evil)" in ask(guest, "cat /root/.ssh/authorized_keys")
    assert "No such file" in ask(guest, "ls /run/evil")
    for program in (
        "iperf3 --version",
        "tcpdump --version",
        "dbclient -V",
        "qemu-ga --version",
        "nft --version",
    ):
        assert "not found" not in ask(guest, f"{program} 2>&1 && echo works")
    assert "bridge" in ask(guest, "modprobe bridge && lsmod | grep ^bridge")
    assert "dropbear -R" in ask(guest, "ps")


async def test_a_build_on_a_full_disk_says_so(built_tiny: None, tmp_path: Path) -> None:
    (tmp_path / "debs").symlink_to(CACHE / "debs")
    (tmp_path / "tiny").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "tiny"], check=True)
    try:
        with pytest.raises(StorageFailed) as caught:
            await build(tmp_path, lambda _: None)
        assert caught.value.message == (
            f"no room to build the tiny image in {tmp_path}; make room or choose another cache "
            "folder"
        )
        assert list((tmp_path / "tiny").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path / "tiny"], check=True)
