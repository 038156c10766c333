"""Interfaces and namespaces of somebody else that have the very names that labd would give."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.system.harness import Daemon, Json
from tests.system.outside import Outside, run

TEMPLATE = """name: lab
networks: {lan: {subnet: 10.0.0.0/24, uplink: nat}}
nodes:
  a: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB, nics: {e: {network: lan}}}
"""


def links(space: str) -> dict[str, tuple[int, str]]:
    """Return name -> index and alias of the interfaces of a namespace."""
    found = json.loads(run(space, "ip", "-j", "link"))
    return {link["ifname"]: (link["ifindex"], link.get("ifalias", "")) for link in found}


def differences(daemon: Daemon, *, repair: bool = False) -> dict[str, Json]:
    with daemon.client() as client:
        found: list[Json] = [dict(item) for item in client.differences(repair=repair)]
    assert {(item["kind"], item["repaired"]) for item in found} == {("foreign", False)}
    return {item["name"]: item for item in found}


def test_what_is_a_strangers_is_told_and_neither_used_nor_removed(
    outside: Outside, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(namespace=outside.host)
    daemon.image("bootsector")
    template = tmp_path / "lab.yaml"
    template.write_text(TEMPLATE)
    clean = links(outside.host)
    daemon.lab("up", str(template))
    key = daemon.json("status", "lab")["key"]
    # The lab's own, while it is down; and ones that no lab has.
    space, other = (f"labd-{daemon.host_id}-{name}" for name in (key, "zzzzzz"))
    veth, spare = (f"v{daemon.host_id}{name}" for name in (key, "zzzzzz"))
    assert veth in links(outside.host)
    daemon.lab("down", "lab", "--force")
    assert links(outside.host) == clean

    with ExitStack() as undo:

        def make_namespace(name: str) -> None:
            subprocess.run(["ip", "netns", "add", name], check=True)
            undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            run(name, "ip", "link", "add", "theirs", "type", "bridge")

        make_namespace(other)
        for name in (veth, spare):
            run(outside.host, "ip", "link", "add", name, "type", "bridge")
        strangers = {outside.host: links(outside.host), other: links(other)}

        def untouched() -> None:
            assert {name: links(name) for name in strangers} == strangers
            assert daemon.on_host("nft", "list", "tables") == ""
            assert outside.forwarding() == "0"
            assert daemon.namespaces() == sorted(strangers.keys() - {outside.host})
            assert daemon.qemus() == []

        assert daemon.lab("start", "lab", expect=1).endswith(
            f"interface {veth} of the host was not made by labd, and is in the way of an uplink; "
            f"rename or delete it: ip link del {veth}\n"
        )
        untouched()
        make_namespace(space)
        strangers[space] = links(space)
        assert daemon.lab("up", str(template), expect=1).endswith(
            f"namespace {space} was not made by labd; rename or delete it: ip netns del {space}\n"
        )
        untouched()
        daemon.kill()
        daemon.start()
        untouched()
        for found in (differences(daemon), differences(daemon, repair=True)):
            assert found.keys() == {veth, spare, other, space}
            assert found[other]["text"] == (
                f"namespace {other} has a name of labd's and was not made by it; labd leaves it "
                f"alone: rename or delete it, for example with ip netns del {other}"
            )
        daemon.lab("destroy", "lab", "--force")
        untouched()
        for name in (veth, spare):
            run(outside.host, "ip", "link", "del", name)
