"""`lab top` against the real API with the fake engine behind it."""

from __future__ import annotations

import json
import os

import pytest

from labd.cli.verbs.top import _rates
from labd.host.usage import process_usage
from tests.unit.cli_runner import Cli


@pytest.fixture
def lab(lab: Cli) -> Cli:
    """Return it with the lab `web` up."""
    lab("up", lab.web)
    return lab


def test_nodes_with_rates(lab: Cli) -> None:
    lines = lab("top", "-n", "0.2").splitlines()
    assert lines[0] == (
        "2 CPUs, nodes use 1.00; memory: 24 GiB, 20 GiB available, nodes own 80 MiB; "
        "disk: 70 GiB free"
    )
    assert lines[1].split() == [
        *["NODE", "STATE", "CPU%", "OWN", "SHARED", "MEMORY", "WRITTEN", "WRITES"],
        *["PKT/S", "IN", "OUT"],
    ]  # fmt: skip
    row = "web/a ready 50.0 40 MiB 80 MiB 128 MiB 4 MiB 1 MiB/s 10 5"
    assert lines[2].split() == row.split(" ")
    assert len(lines) == 4


def test_labs_and_json(lab: Cli) -> None:
    lines = lab("top", "--labs", "-n", "0.2", "web").splitlines()
    assert lines[2].split()[:5] == ["web", "2", "100.0", "80", "MiB"]
    found = json.loads(lab("--json", "top", "-n", "0.2"))
    assert found["host"]["cpus"] == 2
    assert found["host"]["memory_low"] is False
    assert {item["node"]: item["cpu_rate"] for item in found["nodes"]} == {"a": 0.5, "b": 0.5}
    assert lab("top", "nothing", "-n", "0.2", expect=4) == "lab: there is no lab nothing\n"


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
