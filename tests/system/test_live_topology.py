"""A running lab takes what its edited template says: the rest keeps running, also over restarts."""

from __future__ import annotations

import pytest

from tests.guests import IMAGE, UP, boot_cd
from tests.system.harness import Daemon, Json, until

HEAD = """\
name: live
networks:
  lan: {subnet: 10.0.1.0/24}
"""
OLD = f"""{HEAD}
nodes:
  a: {{image: tiny, memory: 128 MiB, nics: {{eth0: {{network: lan, address: 10.0.1.1/24}}}}}}
  b: {{image: tiny, memory: 128 MiB, machine: pc, nics: {{eth0: {{network: lan}}}}}}
"""
NEW = f"""{HEAD}
  two: {{subnet: 10.0.2.0/24}}
nodes:
  a:
    image: tiny
    memory: 128 MiB
    disks: {{data: {{size: 48 MiB}}}}
    nics:
      eth0: {{network: lan, address: 10.0.1.1/24}}
      eth1: {{network: two, mac: "02:00:00:00:00:aa"}}
  b:
    image: tiny
    memory: 128 MiB
    machine: pc
    disks: {{data: {{size: 48 MiB}}}}
    nics: {{eth1: {{network: two, mac: "02:00:00:00:00:bb"}}}}
  c: {{image: tiny, memory: 128 MiB, nics: {{eth0: {{network: two}}}}}}
"""


def up(daemon: Daemon, text: str) -> str:
    path = daemon.root / "live.yaml"
    path.write_text(text)
    return daemon.lab("up", str(path), timeout=300)


def plan(daemon: Daemon, text: str) -> list[Json]:
    path = daemon.root / "live.yaml"
    path.write_text(text)
    changes = daemon.json("plan", str(path))["changes"]
    assert isinstance(changes, list)
    return changes


def nics(daemon: Daemon, node: str, wanted: str) -> None:
    """See how many cards a guest has."""
    daemon.console(f"live/{node}", "ls -d /sys/class/net/*/device | wc -l", wanted)


@pytest.mark.usefixtures("built_tiny")
def test_an_edited_template_changes_only_what_it_says(daemon: Daemon) -> None:
    daemon.image()
    up(daemon, OLD)
    pids = daemon.pids("live")
    steps = {item["name"]: (item["action"], item["why"]) for item in plan(daemon, NEW)}
    assert steps == {
        "two": ("create", ""),
        "a": ("update", "attach nic eth1; attach disk data"),
        "b": ("update", "detach nic eth0; attach nic eth1; attach disk data"),
        "c": ("create", ""),
    }
    up(daemon, NEW)
    now = daemon.pids("live")
    assert {name: now[name] for name in pids} == pids
    for node in ("a", "b"):
        daemon.console(f"live/{node}", "cat /sys/block/vd?/serial", r"(?m)^data")
        nics(daemon, node, r"(?m)^2$" if node == "a" else r"(?m)^1$")
    # The new card is on the new network.
    daemon.console("live/a", "ip addr add 10.0.2.1/24 dev $(grep -l :aa /sys/class/net/*/address |"
        " cut -d/ -f5); ip link set $(grep -l :aa /sys/class/net/*/address | cut -d/ -f5) up;"
        " echo ok",
        "(?m)^ok$")  # fmt: skip
    daemon.console("live/b", "ip addr add 10.0.2.2/24 dev $(grep -l :bb /sys/class/net/*/address |"
        " cut -d/ -f5); ip link set $(grep -l :bb /sys/class/net/*/address | cut -d/ -f5) up;"
        " ping -c 3 10.0.2.1", r"(?m)^64 bytes from 10.0.2.1")  # fmt: skip

    # A later daemon knows them, and a restart of the node has them in the same places.
    daemon.console("live/a", "readlink /sys/block/vda/device; echo", "virtio")
    daemon.kill()
    daemon.start()
    assert plan(daemon, NEW) == []
    assert daemon.pids("live") == now
    daemon.lab("restart", "live/a", "--force")
    daemon.console("live/a", "cat /sys/block/vd?/serial", r"(?m)^data")
    nics(daemon, "a", r"(?m)^2$")

    # Back again; what was added goes.
    now = daemon.pids("live")
    up(daemon, OLD)
    assert daemon.pids("live") == {name: now[name] for name in pids}
    daemon.console("live/b", "ls /sys/block | grep -c vd", r"(?m)^0$")
    told = [
        (event["type"].removeprefix("io.labd.node."), event["subject"], event["data"]["name"])
        for event in daemon.events()
        if "device-" in event["type"]
    ]
    assert told.count(("device-attached", "live/a", "eth1")) == 1
    assert sorted(told[-5:]) == [
        ("device-attached", "live/b", "eth0"),
        ("device-detached", "live/a", "data"),
        ("device-detached", "live/a", "eth1"),
        ("device-detached", "live/b", "data"),
        ("device-detached", "live/b", "eth1"),
    ]


CD = """\
name: cds
nodes:
  old: {{image: boots, memory: 16 MiB, disk_bus: ide, cdrom: {cd}, boot: [cdrom, disk]}}
"""


def test_a_cd_is_changed_and_found_at_the_next_boot(daemon: Daemon) -> None:
    for name in ("first", "other"):
        path = daemon.root / f"{name}.iso"
        path.write_bytes(boot_cd(f"cd: {name}"))
        daemon.lab("image", "import", str(path), "--name", name)
    (daemon.root / "boots.img").write_bytes(IMAGE)
    daemon.lab("image", "import", str(daemon.root / "boots.img"), "--format", "raw")
    up(daemon, CD.format(cd="empty"))
    pids = daemon.pids("cds")

    def says(text: str) -> None:
        daemon.lab("reset", "cds/old")
        until(lambda: text in daemon.lab("logs", "--raw", "cds/old"), f"it says {text}")

    for name in ("first", "other"):
        up(daemon, CD.format(cd=name))
        says(f"cd: {name}")
    assert daemon.pids("cds") == pids
    assert "cds/old" in daemon.lab("image", "rm", "other", expect=1)
    daemon.lab("restart", "cds", "--force")
    until(lambda: "cd: other" in daemon.lab("logs", "--raw", "cds/old"), "the CD is still in")
    up(daemon, CD.format(cd="empty"))
    says(UP)


@pytest.mark.usefixtures("built_tiny")
def test_disks_and_nodes_without_a_template(daemon: Daemon) -> None:
    daemon.image()
    up(daemon, OLD)
    pids = daemon.pids("live")
    daemon.lab("disk", "attach", "live/a", "data", "--size", "48 MiB")
    daemon.console("live/a", "cat /sys/block/vda/serial; echo keep > /dev/vda", "data")
    assert daemon.json("disk", "ls", "live/a")["disks"] == [
        {
            "name": "data",
            "kind": "disk",
            "bus": "virtio",
            "size": 48 << 20,
            "image": "",
            "attached": True,
        }
    ]
    daemon.lab("node", "add", "live/x", "--image", "tiny", "--memory", "128 MiB",
        "--network", "lan=10.0.1.9/24")  # fmt: skip
    assert daemon.states("live") == {"a": "ready", "b": "ready", "x": "ready"}
    daemon.console("live/a", "ping -c 3 10.0.1.9", r"(?m)^64 bytes from 10.0.1.9")
    daemon.kill()
    daemon.start()
    daemon.lab("disk", "detach", "live/a", "data")
    daemon.console("live/a", "ls /sys/block | grep -c vd", r"(?m)^0$")
    assert "was kept, and has 48 MiB" in daemon.lab(
        "disk", "attach", "live/a", "data", "--size", "1 GiB", expect=2
    )
    other = daemon.root / "other.yaml"
    other.write_text(NEW.replace("48 MiB", "1 GiB"))
    for verb in ("plan", "up"):
        assert daemon.lab(verb, str(other), expect=2) == (
            "lab: disk data of live/a has 48 MiB and cannot become 1 GiB: a disk keeps its size; "
            "take it out, and add one under a new name\n"
        )
    daemon.lab("disk", "attach", "live/a", "data", "--size", "48 MiB")
    daemon.console("live/a", "head -c 4 /dev/vda; echo", r"(?m)^keep$")
    daemon.lab("node", "rm", "live/x")
    assert daemon.pids("live") == pids
    for args, status, message in (
        (("disk", "attach", "live/b", "d", "--size", "1 GiB", "--bus", "ide"), 1,
         ("node live/b cannot take that while it runs: disk d is on bus ide, which takes no disks "
          "while it runs; stop it first: `lab stop live/b`")),
        (("disk", "attach", "live/b", "root", "--size", "1 GiB"), 2,
         "a disk cannot be called root: choose another name, of at most 20 characters"),
        (("disk", "attach", "live/b", "d", "--size", "1000"), 2,
         "a disk must have 1 MiB to 64 TiB, and a multiple of 512 bytes: not 1000"),
        (("disk", "detach", "live/b", "nope"), 4, "node live/b has no disk nope"),
        (("disk", "ls", "live/nope"), 4, "there is no node live/nope; known: a, b"),
        (("cdrom", "eject", "live/b"), 1,
         ("node live/b has no CD-ROM drive; write `cdrom: empty` for it in the template, and "
          "`lab up` again")),
        (("node", "add", "live", "a", "--image", "tiny"), 1,
         "lab live has a node a already; choose another name"),
        (("node", "add", "live", "y", "--image", "tiny", "--network", "wan"), 2,
         "node y: there is no network 'wan'; did you mean 'lan'?"),
        (("node", "add", "live", "y", "--image", "tiny", "--network", "lan=10.9.0.1/24"), 2,
         "node y: 10.9.0.1/24 is not in 10.0.1.0/24, the subnet of lan"),
        (("node", "add", "live", "y", "--image", "tiny", "--network", "lan=10.0.1.1/24"), 2,
         "node y: 10.0.1.1 is taken by a; choose another"),
        (("node", "add", "live", "y"), 2, "node y needs an image or a profile: give --image"),
        (("node", "rm", "live/y"), 4, "there is no node live/y; known: a, b"),
    ):  # fmt: skip
        assert daemon.lab(*args, expect=status) == f"lab: {message}\n"
    assert daemon.pids("live") == pids
