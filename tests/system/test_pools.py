"""A warm pool on real QEMU: a fork that stood ready before anybody had a name for it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.system.harness import Daemon, end, is_alive, until

pytestmark = pytest.mark.usefixtures("built_tiny")

TEMPLATE = """name: base
networks: {lan: {subnet: 10.9.0.0/24}}
nodes:
  a:
    image: tiny
    memory: 128 MiB
    nics: {eth0: {network: lan, address: 10.9.0.1/24}}
    publish: ["0:22"]
    on_fork: [[sh, -c, "echo $LABD_LAB $LABD_STUDENT > /tmp/who"]]
  b: {image: tiny, memory: 128 MiB, nics: {eth0: {network: lan, address: 10.9.0.2/24}}}
"""


def pids(daemon: Daemon) -> list[dict[str, int]]:
    """Return node -> pid of each fork that stands ready."""
    found = daemon.json("pool", "show", "c")
    return [m["pids"] for m in found["members"] if m["state"] == "ready"]


def generation(daemon: Daemon, lab: str, node: str) -> str:
    key = daemon.nodes(lab)[node]["key"]
    return str(daemon.qmp(key, "query-vm-generation-id")["guid"])


def test_a_pool_of_tiny(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    template = tmp_path / "base.yaml"
    template.write_text(TEMPLATE)
    daemon.lab("up", str(template))
    daemon.console("base/a", "echo before > /tmp/me; echo o''k", "ok")
    daemon.lab("checkpoint", "save", "base", "c")
    for words, status, text in (
        (("warm", "c", "0"), 2, "0 is not in the range"),
        (("warm", "c", "-1"), 2, "no such option"),
        (("warm", "c", "501"), 2, "501 is not in the range"),
        (("warm", "c", "400"), 1, "does not fit"),
        (("warm", "d", "1"), 4, "there is no checkpoint d"),
        (("cool", "c"), 4, "there is no pool of checkpoint c"),
    ):
        assert text in daemon.lab("pool", *words, expect=status).lower(), words
    daemon.lab("pool", "warm", "c", "2")
    waiting = pids(daemon)
    assert len(waiting) == 2
    assert [lab["name"] for lab in daemon.json("ls")["labs"]] == ["base"]
    assert "pool cool c" in daemon.lab("checkpoint", "rm", "c", expect=1)

    # The next daemon has them still, and not the one that died with it.
    daemon.kill()
    end(waiting[1]["b"])
    daemon.start()
    until(lambda: len(pids(daemon)) == 2, "the pool is full again")
    assert waiting[0] in pids(daemon)
    until(lambda: not is_alive(waiting[1]["a"]), "a fork that is not whole is ended")

    daemon.lab("fork", "c", "copy", "--set", "student=ann")
    assert daemon.pids("copy") == waiting[0], "it ran before it had a name"
    assert set(daemon.states("copy").values()) == {"ready"}
    asked = time.time()
    said = daemon.console("copy/a", "cat /tmp/me /tmp/who; date +%s; echo e''nd", r"\d+\s+end")
    assert "before" in said
    assert "copy ann" in said
    assert asked - 5 < int(re.findall(r"(\d+)\s+end", said)[0]) < time.time() + 5
    assert "2 packets received" in daemon.console("copy/a", "ping -c 2 -W 5 10.9.0.2", "received")
    (port,) = daemon.json("status", "copy")["published"]
    assert (port["node"], port["port"]) == ("a", 22)
    assert "who" in daemon.lab("ssh", "copy/a", "ls", "/tmp")
    ids = {generation(daemon, lab, "a") for lab in ("base", "copy")}
    until(lambda: len(pids(daemon)) == 2, "what was taken is replaced")
    daemon.lab("class", "start", "c", "--name", "k", "--count", "1")
    ids.add(generation(daemon, "k-s1", "a"))
    assert len(ids) == 3, "each learns that it is a copy"

    # Killed as it waits: replaced, and nobody gets it.
    until(lambda: len(pids(daemon)) == 2, "what was taken is replaced")
    victim = pids(daemon)[0]
    end(victim["a"])
    until(lambda: len(pids(daemon)) == 2 and victim not in pids(daemon), "it is replaced")
    assert daemon.json("fsck")["differences"] == []
    daemon.lab("class", "destroy", "k")
    daemon.lab("destroy", "base", "copy", "--force")
    daemon.lab("pool", "cool", "c")
    daemon.lab("checkpoint", "rm", "c")
    assert daemon.leaks() == []
    told = [event["type"].removeprefix("io.labd.") for event in daemon.changes()]
    assert [kind for kind in told if kind.startswith("pool.")][:2] == ["pool.set", "pool.ready"]
    assert told.count("pool.taken") == 2
    assert told[-3:-1].count("pool.cooled") == 1
