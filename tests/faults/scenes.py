"""What is asked of a daemon that dies: where it begins, what is asked, and where it may end."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass

from labd.client.client import Client
from labd.client.types import Operation
from labd.images.bootsector import boot_sector

LAB = "faulty"
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
EDITED = f"""\
name: faulty
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{lease: 2h}}}}, more: {{}}}}
nodes:
  a:
{_NODE.replace("16 MiB", "20 MiB")}    disks: {{data: {{size: 1 MiB, bus: ide}}}}
  c:
{_NODE}"""

Outcome = dict[str, str]  # node -> state, and "" -> the lab's state; empty: there is no lab
UP: Outcome = {"": "running", "a": "ready", "b": "ready"}
NEW: Outcome = {"": "running", "a": "ready", "c": "ready"}
STOPPED: Outcome = {"": "stopped", "a": "stopped", "b": "stopped"}
NONE: Outcome = {}


def up(client: Client, text: str = TEMPLATE) -> Operation:
    """Ask for the lab."""
    return client.up(LAB, text)


def settle(client: Client, operation: Operation) -> None:
    """Wait for the end of an operation that must succeed."""
    Client.check_operation(client.wait_operation(operation["id"], 60))


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
    client.wires.set(LAB, "lan", down=True, rate=1_000_000)


def nothing(_: Client) -> None:
    """Begin with nothing."""


def upload(client: Client) -> None:
    """Send an image."""
    # Not the sector that the labs use: a store by digest would have it already.
    client.upload_image("sent", [io.BytesIO(boot_sector() + bytes(512))], format="raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One request.

    Attributes:
        prepare: Makes the state before it.
        ask: Asks for it; a failure of the connection is no fault.
        ends: Every state of the lab in which all may end: done, or undone.
    """

    prepare: Callable[[Client], None]
    ask: Callable[[Client], object]
    ends: Collection[str]


ENDS: dict[str, Outcome] = {
    "up": UP,
    "new": NEW,
    "stopped": STOPPED,
    "none": NONE,
    "a stopped": {"": "running", "a": "stopped", "b": "ready"},
    "a paused": {"": "running", "a": "paused", "b": "ready"},
}
SCENES: dict[str, Scene] = {
    "up": Scene(prepare=nothing, ask=up, ends={"none", "up"}),
    "up-again": Scene(prepare=have_stopped_lab, ask=up, ends={"stopped", "up"}),
    "edit": Scene(prepare=have_lab, ask=lambda c: up(c, EDITED), ends={"up", "new"}),
    "down": Scene(
        prepare=have_lab, ask=lambda c: c.act("down", LAB, force=True), ends={"up", "stopped"}
    ),
    "destroy": Scene(
        prepare=have_lab, ask=lambda c: c.act("destroy", LAB, force=True), ends={"up", "none"}
    ),
    "stop": Scene(
        prepare=have_lab,
        ask=lambda c: c.act("stop", LAB, ["a"], force=True),
        ends={"up", "a stopped"},
    ),
    "start": Scene(
        prepare=have_stopped_lab, ask=lambda c: c.act("start", LAB), ends={"stopped", "up"}
    ),
    "restart": Scene(
        prepare=have_lab, ask=lambda c: c.act("restart", LAB, ["b"], force=True), ends={"up"}
    ),
    "pause": Scene(
        prepare=have_lab, ask=lambda c: c.act("pause", LAB, ["a"]), ends={"up", "a paused"}
    ),
    "resume": Scene(
        prepare=have_paused_node, ask=lambda c: c.act("resume", LAB, ["a"]), ends={"up", "a paused"}
    ),
    "reset": Scene(prepare=have_lab, ask=lambda c: c.act("reset", LAB, ["a"]), ends={"up"}),
    "wires": Scene(
        prepare=have_lab,
        ask=lambda c: c.wires.set(LAB, "lan", down=True, rate=1_000_000),
        ends={"up"},
    ),
    "wires-reset": Scene(prepare=have_bad_wires, ask=lambda c: c.wires.reset(LAB), ends={"up"}),
    "image": Scene(prepare=nothing, ask=upload, ends={"none"}),
    "image-build": Scene(
        prepare=nothing, ask=lambda c: c.build_image("bootsector", "built"), ends={"none"}
    ),
    "plugin": Scene(
        prepare=nothing, ask=lambda c: c.set_plugin("recorder", enabled=True), ends={"none"}
    ),
}
