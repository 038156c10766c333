"""`lab top` against the real API over the real engine on fakes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from labd.cli.verbs.top import _by_lab, _head, _rates, _table
from labd.host.usage import process_usage
from tests.fakes.daemon import USED
from tests.unit.cli_runner import Cli


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab("up", lab.web)
    return lab


MIB = 1 << 20
HOST = {
    "cpus": 2,
    "memory": 24 << 30,
    "memory_available": 20 << 30,
    "disk_available": 70 << 30,
    "memory_low": False,
}


def seen(look: int) -> dict[str, Any]:
    """Return what labd says at a look, two seconds and a bit of work after the one before."""
    nodes = [
        {
            "lab": "web",
            "node": node,
            "state": "ready",
            "cpu": 1.0 * look,
            "own": 40 * MIB,
            "shared": 80 * MIB,
            "memory": 128 * MIB,
            "written": 2 * MIB * look,
            "received_packets": 20 * look,
            "sent_packets": 10 * look,
        }
        for node in ("b", "a")
    ]
    return {"clock": 2.0 * look, "nodes": nodes}


def test_rates_are_those_since_the_last_look() -> None:
    found = _rates(seen(1), seen(2))
    assert _head(HOST, found) == (
        "2 CPUs, nodes use 1.00; memory: 24 GiB, 20 GiB available, nodes own 80 MiB; "
        "disk: 70 GiB free"
    )
    lines = _table(found, by_lab=False).splitlines()
    assert lines[0].split() == [
        *["NODE", "STATE", "CPU%", "OWN", "SHARED", "MEMORY", "WRITTEN", "WRITES"],
        *["PKT/S", "IN", "OUT"],
    ]  # fmt: skip
    row = "web/a ready 50.0 40 MiB 80 MiB 128 MiB 4 MiB 1 MiB/s 10 5"
    assert lines[1].split() == row.split(" ")
    assert len(lines) == 3
    labs = _table(_by_lab(found), by_lab=True).splitlines()
    assert labs[1].split()[:5] == ["web", "2", "100.0", "80", "MiB"]


def test_nodes_labs_and_json(lab: Cli) -> None:
    cpu = iter(float(n) for n in range(1000))
    lab.server.daemon.used = lambda _: replace(USED, cpu=next(cpu))
    lines = lab("top", "-n", "0.2").splitlines()
    assert lines[0].endswith("; memory: 64 GiB, 64 GiB available, nodes own 80 MiB; "
                             "disk: 4194304 TiB free")  # fmt: skip
    assert sorted(line.split()[0] for line in lines[2:]) == ["web/a", "web/b"]
    assert all(float(line.split()[2]) > 0 for line in lines[2:])
    lines = lab("top", "--labs", "-n", "0.2", "web").splitlines()
    assert lines[2].split()[:2] == ["web", "2"]
    found = json.loads(lab("--json", "top", "-n", "0.2"))
    assert found["host"]["cpus"] == len(os.sched_getaffinity(0))
    assert found["host"]["memory_low"] is False
    rates = {item["node"]: item["cpu_rate"] for item in found["nodes"]}
    assert rates["a"] == rates["b"] > 0
    assert lab("top", "nothing", "-n", "0.2", expect=4) == (
        "lab: there is no lab nothing; known: web\n"
    )


def test_a_node_that_was_restarted_or_is_new_counts_from_its_start() -> None:
    item = {"lab": "l", "node": "n", "cpu": 5.0, "written": 10, "received_packets": 3,
            "sent_packets": 4}  # fmt: skip
    before = {"clock": 1.0, "nodes": [item]}
    now = {"clock": 2.0, "nodes": [{**item, "cpu": 1.0, "written": 2, "received_packets": 1}]}
    (found,) = _rates(before, now)
    assert (found["cpu_rate"], found["written_rate"], found["received_packets_rate"]) == (1, 2, 1)
    (found,) = _rates({"clock": 1.0, "nodes": []}, now)
    assert found["cpu_rate"] == 0.0


def test_what_this_process_takes() -> None:
    disk_reserve = bytearray(os.urandom(1 << 20)) * 32
    usage = process_usage(os.getpid())
    assert usage is not None
    assert usage.own >= len(disk_reserve)
    assert usage.shared > 0
    assert usage.cpu > 0
    assert process_usage(1 << 30) is None
