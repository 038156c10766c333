"""Scenes of labs, images and plugins, and all scenes."""

from __future__ import annotations

import io
import subprocess

from labd.client.client import Client
from labd.client.types import Operation
from labd.drivers.network.linux.names import link_group
from labd.images.bootsector import boot_sector
from tests.faults import checkpoint_scenes
from tests.faults.scene import LAB, Outcome, Scene, settle

_NODE = """\
    image: bootsector
    machine: pc
    disk_bus: ide
    memory: 16 MiB
    accel: tcg
    nics: {eth0: {network: lan, model: e1000}}
    ready: {console: "labd: ready", timeout: 60s}
    cloud_init: {}
"""
TEMPLATE = f"""\
name: faulty
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: true}}}}
nodes:
  a:
{_NODE}    disks: {{data: {{size: 1 MiB, bus: ide}}}}
  b:
{_NODE}    depends_on: {{a: ready}}
"""
ONE = f"""\
name: faulty
networks: {{lan: {{}}}}
nodes:
  a:
{_NODE}    cdrom: empty
"""
PLUGGED = f"""\
name: faulty
networks: {{lan: {{}}}}
nodes:
  a:
{_NODE.replace("e1000}", "e1000}, eth1: {network: lan, model: virtio}")}    cdrom: empty
    disks: {{more: {{size: 1 MiB, bus: virtio}}}}
"""
EDITED = f"""\
name: faulty
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{lease: 2h}}}}, more: {{}}}}
nodes:
  a:
{_NODE.replace("16 MiB", "20 MiB")}    disks: {{data: {{size: 1 MiB, bus: ide}}}}
  c:
{_NODE}"""

UP: Outcome = {"": "running", "a": "ready", "b": "ready"}
NEW: Outcome = {"": "running", "a": "ready", "c": "ready"}
ALONE: Outcome = {"": "running", "a": "ready"}
STOPPED: Outcome = {"": "stopped", "a": "stopped", "b": "stopped"}
NONE: Outcome = {}
A_STOPPED: Outcome = {"": "running", "a": "stopped", "b": "ready"}
A_PAUSED: Outcome = {"": "running", "a": "paused", "b": "ready"}


def up(client: Client, text: str = TEMPLATE) -> Operation:
    """Ask for the lab."""
    return client.up(LAB, text, force=True)


def have_lab(client: Client) -> None:
    """Have the lab running."""
    settle(client, up(client))


def have_stopped_lab(client: Client) -> None:
    """Have the lab, stopped."""
    have_lab(client)
    settle(client, client.act("down", LAB, force=True))


def have_paused_node(client: Client) -> None:
    """Have the lab with its node `a` paused."""
    have_lab(client)
    settle(client, client.act("pause", LAB, ["a"]))


def have_bad_wires(client: Client) -> None:
    """Bring it up, its nodes without a carrier."""
    have_lab(client)
    client.links.set(LAB, "lan", down=True, rate=1_000_000)


def have_drive(client: Client) -> None:
    """Have a lab of one node with an empty CD drive, and a disc."""
    if not client.labs():
        sector = bytes(32768) + b"\x01CD001\x01" + bytes(2041)
        client.upload_image("disc", [io.BytesIO(sector)], format="iso")
        settle(client, up(client, ONE))
    settle(client, client.edits.set_cdrom(LAB, "a"))


def nothing(_: Client) -> None:
    """Begin with nothing."""


def upload(client: Client) -> None:
    """Send an image."""
    # Not the sector that the labs use: a store by digest would have it already.
    client.upload_image("sent", [io.BytesIO(boot_sector() + bytes(512))], format="raw")


def leave_orphans(client: Client) -> None:
    """Leave on the host what belongs to no lab."""
    host_id = client.info()["host_id"]
    table, veth = f"labd_{host_id}_zzzzzz", f"v{host_id}zzzzzz"
    group = str(link_group(host_id))
    for argv in (
        ["nft", "add", "table", "inet", table],
        # In the group by which labd knows its own: to all others `--repair` does nothing.
        ["ip", "link", "add", veth, "group", group, "type", "veth", "peer", "name", f"p{host_id}"],
    ):
        # What the last death has left is there already.
        subprocess.run(argv, check=False, capture_output=True)


SCENES: dict[str, Scene] = {
    "repair": Scene(
        prepare=leave_orphans,
        ask=lambda c: c.differences(repair=True),
        ends={LAB: [NONE]},
        lasting=True,
    ),
    "up": Scene(prepare=nothing, ask=up, ends={LAB: [NONE, UP]}),
    "up-again": Scene(prepare=have_stopped_lab, ask=up, ends={LAB: [STOPPED, UP]}, lasting=True),
    "edit": Scene(
        prepare=have_lab, ask=lambda c: up(c, EDITED), ends={LAB: [UP, NEW]}, lasting=True
    ),
    "down": Scene(
        prepare=have_lab,
        ask=lambda c: c.act("down", LAB, force=True),
        ends={LAB: [UP, STOPPED]},
        lasting=True,
    ),
    "destroy": Scene(
        prepare=have_lab,
        ask=lambda c: c.act("destroy", LAB, force=True),
        ends={LAB: [UP, NONE]},
        lasting=True,
    ),
    "stop": Scene(
        prepare=have_lab,
        ask=lambda c: c.act("stop", LAB, ["a"], force=True),
        ends={LAB: [UP, A_STOPPED]},
    ),
    "start": Scene(
        prepare=have_stopped_lab,
        ask=lambda c: c.act("start", LAB),
        ends={LAB: [STOPPED, UP]},
        lasting=True,
    ),
    "restart": Scene(
        prepare=have_lab,
        ask=lambda c: c.act("restart", LAB, ["b"], grace=0.2),
        ends={LAB: [UP]},
        lasting=True,
    ),
    "pause": Scene(
        prepare=have_lab, ask=lambda c: c.act("pause", LAB, ["a"]), ends={LAB: [UP, A_PAUSED]}
    ),
    "resume": Scene(
        prepare=have_paused_node,
        ask=lambda c: c.act("resume", LAB, ["a"]),
        ends={LAB: [UP, A_PAUSED]},
    ),
    "reset": Scene(prepare=have_lab, ask=lambda c: c.act("reset", LAB, ["a"]), ends={LAB: [UP]}),
    "links": Scene(
        prepare=have_lab,
        ask=lambda c: c.links.set(LAB, "lan", down=True, rate=1_000_000),
        ends={LAB: [UP]},
    ),
    "wires-reset": Scene(
        prepare=have_bad_wires, ask=lambda c: c.links.reset(LAB), ends={LAB: [UP]}
    ),
    "plug": Scene(
        prepare=lambda c: settle(c, up(c, ONE)), ask=lambda c: up(c, PLUGGED), ends={LAB: [ALONE]}
    ),
    "cdrom": Scene(
        prepare=have_drive,
        ask=lambda c: c.edits.set_cdrom(LAB, "a", "disc"),
        ends={LAB: [ALONE]},
        lasting=True,
    ),
    "image": Scene(prepare=nothing, ask=upload, ends={LAB: [NONE]}),
    "image-build": Scene(
        prepare=nothing, ask=lambda c: c.build_image("bootsector", "built"), ends={LAB: [NONE]}
    ),
    "plugin": Scene(
        prepare=nothing, ask=lambda c: c.set_plugin("recorder", enabled=True), ends={LAB: [NONE]}
    ),
    **checkpoint_scenes.SCENES,
}
