"""Idle labs: what the kernel shows of real connections and packets, and the plugin `idle`."""

from __future__ import annotations

import asyncio
import socket
import time

from labd.drivers.network.linux import LabCounters, netns
from tests.system.harness import TEMPLATES, Daemon, Json, until

BOOT = str(TEMPLATES / "bootsector.yaml")


def activity(daemon: Daemon, lab: str) -> Json:
    found: Json = daemon.json("status", lab)["activity"]
    return found


def test_the_plugin_pauses_a_lab_that_nobody_uses(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", BOOT, "--name", "b")
    assert activity(daemon, "b")["source"] == "operation"
    settings = ("after=4s", "warn-before=2s", "action=pause")
    daemon.lab("plugin", "enable", "idle", *(f"--set={setting}" for setting in settings))
    until(lambda: daemon.states("b") == {"boot": "paused"}, "it is paused")
    events = [event for event in daemon.events() if event["type"] == "io.labd.lab.warning"]
    assert [(event["lab"], event["data"]["reason"]) for event in events] == [("b", "idle")]
    assert activity(daemon, "b")["idle"] is None
    assert daemon.json("ls")["labs"][0]["idle"] is None


def connection(daemon: Daemon) -> float:
    """Return the seconds since a connection was used, -1 when none is known."""
    return float(activity(daemon, "b")["sources"].get("connection", -1))


def test_bytes_on_a_connection_into_a_lab_are_seen(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", BOOT, "--name", "b")
    (namespace,) = daemon.namespaces()

    def connected() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            # As in a namespace of a lab: its loopback is up.
            near = socket.create_connection(server.getsockname())
            return near, server.accept()[0]

    def glance() -> float | None:
        return asyncio.run(LabCounters().glance(namespace)).quiet

    assert glance() is None
    near, far = asyncio.run(netns.inside(namespace, connected))
    with near, far:
        time.sleep(1.5)
        quiet = glance()
        assert quiet is not None
        assert quiet >= 1.5
        until(lambda: connection(daemon) >= 1.5, "the connection is seen")
        near.sendall(b"x")
        until(lambda: 0 <= connection(daemon) < 1.5, "the byte is seen")
    assert glance() is None
