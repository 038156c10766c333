"""`lab pool` against the real API over the real engine on fakes."""

from __future__ import annotations

import json

from tests.unit.cli_runner import Cli


def test_the_verbs(lab: Cli) -> None:
    assert lab.both("pool", "ls") == ("", "no pools; `lab pool warm CHECKPOINT N` makes one\n")
    lab("up", lab.web)
    for name in ("c", "d"):
        lab("checkpoint", "save", "web", name)
    lab.server.daemon.own_memory = 512 << 10  # of each of two nodes
    assert lab("pool", "warm", "c", "2") == "2 forks of c stand ready (2 MiB)\n"
    assert lab("pool", "warm", "d", "3", "--no-wait") == "3 forks of d are being made ready\n"
    lab.server.run(lab.server.daemon.filled())
    assert [line.split() for line in lab("pool", "ls").splitlines()[1:]] == [
        ["c", "2", "2", "2", "MiB"],
        ["d", "3", "3", "3", "MiB"],
    ]
    shown = lab("pool", "show", "c").splitlines()
    assert shown[0] == "2 of 2 forks of c stand ready, with 2 MiB of their own"
    (first, _) = lab.server.run(lab.server.engine.pools.get("c")).members
    since = first.created[:19].split("T")
    pids = sorted(f"{node.name}:{node.process.pid}" for node in first.nodes if node.process)
    words = shown[2].split()
    assert [*words[:4], *sorted(words[4:])] == [first.key, "ready", *since, *pids]
    found = json.loads(lab("--json", "pool", "show", "c"))
    assert set(found) == {
        "checkpoint", "size", "ready", "memory", "reason", "created", "members",
    }  # fmt: skip
    assert lab("pool", "cool", "c") == "no forks of c are kept ready any more\n"
    assert json.loads(lab("--json", "pool", "rm", "d")) == {"cooled": "d"}
    assert json.loads(lab("--json", "pool", "ls")) == {"pools": []}


def test_bad_requests(lab: Cli) -> None:
    for number in ("0", "501", "many"):
        assert "'N'" in lab("pool", "warm", "c", number, expect=2)
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "c")
    assert "-1" in lab("pool", "warm", "c", "-1", expect=2)
    assert (
        lab("pool", "warm", "nope", "1", expect=4) == "lab: there is no checkpoint nope; known: c\n"
    )
    assert "there is no pool of checkpoint c" in lab("pool", "show", "c", expect=4)
    assert "there is no pool of checkpoint c" in lab("pool", "cool", "c", expect=4)


def test_a_pool_that_cannot_be_filled(lab: Cli) -> None:
    lab("up", lab.web)
    lab("checkpoint", "save", "web", "short")
    lab.server.daemon.host.fail_launch["*"] = "the disk is full"
    assert lab("pool", "warm", "short", "2", expect=1) == (
        "lab: 0 of 2 forks stand ready: the disk is full; labd tries again by itself\n"
    )
    assert "it is not full: the disk is full" in lab("pool", "show", "short")
