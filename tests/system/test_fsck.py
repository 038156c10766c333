"""`lab fsck` names what somebody did behind labd's back, and mends what can be mended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.system.harness import TEMPLATES, Daemon, until


def fsck(daemon: Daemon, *args: str, expect: int = 1) -> dict[str, dict[str, object]]:
    done = daemon.run("--json", "fsck", *args)
    assert done.returncode == expect, done.stdout + done.stderr
    return {item["kind"]: item for item in json.loads(done.stdout)["differences"]}


def test_a_healthy_host_has_no_differences(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", str(TEMPLATES / "bootsector.yaml"))
    assert fsck(daemon, expect=0) == {}
    daemon.lab("down", "bootsector", "--force")
    assert daemon.run("fsck").stderr == "no differences\n"


def test_orphans_of_every_kind_are_named_and_removed(daemon: Daemon) -> None:
    namespace = f"labd-{daemon.host_id}-zzzzzz"
    folder = daemon.root / "lib" / "nodes" / "zzzzzz"
    folder.mkdir(parents=True)
    (folder / "root.qcow2").write_bytes(b"x")
    (daemon.root / "run" / "n" / "zzzzzy").mkdir(parents=True)
    keys = daemon.root / "lib" / "keys" / "zzzzzz"
    keys.mkdir(parents=True)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    stranger = subprocess.Popen(
        # Named like a QEMU of this root that the inventory does not have.
        ["qemu-system-x86_64", "-name", f"guest=x/y@{daemon.host_id}.zzzzzz,debug-threads=on",
         "-uuid", "6b1d4c3e-0000-4000-8000-000000000000", "-nodefaults", "-display", "none", "-S"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: "orphan-process" in fsck(daemon), "the stranger is seen")
        found = fsck(daemon)
        assert set(found) == {
            "orphan-process", "orphan-namespace", "orphan-folder", "orphan-keys",
        }  # fmt: skip
        assert found["orphan-process"]["text"] == (
            f"QEMU {stranger.pid} of machine zzzzzz belongs to no node"
        )
        mended = fsck(daemon, "--repair", expect=0)
        assert all(item["repaired"] for item in mended.values())
        assert stranger.wait(10) == -signal.SIGKILL
    finally:
        if stranger.poll() is None:
            stranger.kill()
            stranger.wait(60)
    assert fsck(daemon, expect=0) == {}
    assert not folder.exists()
    assert not keys.exists()
    assert not Path("/run/netns", namespace).exists()


def test_what_the_kernel_has_of_no_lab_is_named_and_removed(daemon: Daemon) -> None:
    mark, table = f"labd:{daemon.host_id}", f"labd_{daemon.host_id}_zzzzzz"
    folder = daemon.root / "lib" / "nodes" / "zzzzzz"
    runs = daemon.root / "run" / "n" / "zzzzzz"
    for path in (folder, runs, daemon.root / "lib" / "images" / ("a" * 64)):
        path.mkdir(parents=True)
    veth = f"v{daemon.host_id}zzzzzz"
    with ExitStack() as undo:
        for argv in (
            ["nft", "add", "table", "inet", table],
            ["ip", "link", "add", veth, "type", "veth", "peer", "name", f"p{daemon.host_id[:7]}"],
            ["ip", "link", "set", veth, "alias", f"{mark}:zzzzzz eth0"],
        ):
            subprocess.run(argv, check=True)
        undo.callback(lambda: subprocess.run(["ip", "link", "del", veth], check=False))
        undo.callback(
            lambda: subprocess.run(["nft", "delete", "table", "inet", table], check=False)
        )
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        undo.callback(lambda: subprocess.run(["umount", "-l", folder], check=False))
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(runs / "qmp.sock"))
        listener.listen()
        # A namespace without a name, which lives by an open descriptor alone.
        space = f"labd-{daemon.host_id}-zzzzzy"
        subprocess.run(["ip", "netns", "add", space], check=True)
        subprocess.run(
            ["ip", "-n", space, "link", "set", "lo", "alias", f"{mark} guarded"], check=True
        )
        pin = os.open(f"/run/netns/{space}", os.O_RDONLY)
        undo.callback(os.close, pin)
        subprocess.run(["ip", "netns", "del", space], check=True)

        found = fsck(daemon)
        assert set(found) == {
            "orphan-uplink", "orphan-mount", "orphan-socket", "pinned-namespace", "orphan-folder",
            "orphan-image",
        }  # fmt: skip
        assert f"process {os.getpid()}" in str(found["pinned-namespace"]["text"])
        assert f"umount {folder}" in str(found["orphan-mount"]["text"])
        every = daemon.json("fsck", "--repair", expect=1)["differences"]
        assert {item["name"] for item in every if item["repaired"]} >= {table, veth}
    daemon.stop()
    daemon.start()
    assert fsck(daemon, expect=0) == {}
    assert not folder.exists()


def test_what_a_running_lab_has_lost_is_named(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("bootsector")
    template = tmp_path / "lab.yaml"
    template.write_text(
        "name: lost\nnetworks: {lan: {subnet: 10.0.0.0/24, dhcp: true, uplink: nat}}\n"
        "nodes: {a: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB, "
        "nics: {e: {network: lan}}}}\n"
    )
    daemon.lab("up", str(template))
    assert fsck(daemon, expect=0) == {}
    key = daemon.namespaces()[0].rpartition("-")[2]
    table = f"labd_{daemon.host_id}_{key}"
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    monitor = next((daemon.root / "run" / "n").glob("*/qmp.sock"))
    monitor.rename(monitor.with_name("gone"))
    found = fsck(daemon)
    assert set(found) == {"lost-uplink", "lost-socket"}
    assert found["lost-uplink"]["name"] == f"lost/{table}"
    assert fsck(daemon, "--repair")["lost-uplink"]["repaired"]
    monitor.with_name("gone").rename(monitor)
    assert fsck(daemon, expect=0) == {}


def test_networks_that_were_changed_by_hand_are_mended(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", str(TEMPLATES / "two-tier.yaml"), "--set", "image=bootsector", "--set",
               "memory=16 MiB")  # fmt: skip
    space = daemon.namespaces()[0]
    ip = ["ip", "netns", "exec", space, "ip", "link"]
    subprocess.run([*ip, "add", "br-mine", "type", "bridge"], check=True)
    found = fsck(daemon)
    assert found["orphan-network"]["name"] == "two-tier/br-mine"
    assert fsck(daemon, "--repair", expect=0)["orphan-network"]["repaired"]
    assert fsck(daemon, expect=0) == {}


def test_lost_files_of_an_image_are_told_with_what_to_do(daemon: Daemon) -> None:
    daemon.image("bootsector")
    digest = daemon.json("image", "show", "bootsector")["digest"].removeprefix("sha256:")
    (daemon.root / "lib" / "images" / digest / "disk").unlink()
    found = fsck(daemon, "--repair")
    assert found["lost-image"]["text"] == (
        "image bootsector has lost its files; remove it (`lab image rm bootsector`) and import it "
        "again"
    )
    assert daemon.lab("fsck", expect=1) == ""
    daemon.lab("image", "rm", "bootsector")
