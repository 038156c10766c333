"""A class on real QEMU: forked for a roster, each student with an own parameter; and a death."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.harness import Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")

TEMPLATE = """name: one
nodes:
  a:
    image: tiny
    memory: 128 MiB
    files: {/tmp/greet: {content: "#!/bin/sh\\necho welcome > /tmp/greeting\\n", mode: "0755"}}
    startup: [[/tmp/greet]]
    on_fork: [[sh, -c, "echo $LABD_STUDENT likes $LABD_COLOR > /tmp/who"]]
"""


def names(daemon: Daemon) -> list[str]:
    return [lab["name"] for lab in daemon.json("ls")["labs"]]


def test_a_class(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    template, roster = tmp_path / "one.yaml", tmp_path / "r.csv"
    template.write_text(TEMPLATE)
    roster.write_text("name,color\nann,red\nann,blue\n")
    start = ("class", "start", str(template), "--name", "k", "--students", str(roster))
    said = daemon.lab(*start, expect=2)
    assert said == f"lab: {roster}:3: student ann is in line 2 already\n"
    assert names(daemon) == []

    roster.write_text("name,color\nann,red\nbob,blue\n")
    args = (*start, "--lease", "2h")
    assert "2 of 2 labs are up" in daemon.lab(*args)
    until(lambda: names(daemon) == ["k-ann", "k-bob"], "the first copy is gone")
    assert daemon.json("checkpoint", "show", "k")["labs"] == ["k-ann", "k-bob"]
    for student, color in (("ann", "red"), ("bob", "blue")):
        said = daemon.console(f"k-{student}/a", "cat /tmp/who; echo e''nd", "end")
        assert f"{student} likes {color}" in said
        assert daemon.lab("exec", "-n", f"k-{student}/a", "cat", "/tmp/greeting") == "welcome\n"
        assert daemon.json("lease", "show", f"k-{student}")["left"] > 7000

    daemon.lab("class", "extend", "k", "1h")
    assert daemon.json("lease", "show", "k-bob")["left"] > 10_000
    daemon.console("k-bob/a", "echo late > /tmp/late; echo o''k", "ok")
    daemon.lab("class", "reset", "k", "bob")
    assert "No such file" in daemon.console("k-bob/a", "ls /tmp/late; echo e''nd", "end")
    assert "bob likes blue" in daemon.console("k-bob/a", "cat /tmp/who; echo e''nd", "end")

    # The daemon dies as it serves the next ones.
    roster.write_text("name,color\nann,red\nbob,blue\ncyd,x\ndan,y\n")
    before = daemon.pids("k-ann")
    daemon.lab(*args, "--no-wait")
    until(lambda: len(names(daemon)) > 2, "another lab is being made")
    daemon.kill()
    daemon.start()
    until(lambda: bool(daemon.json("class", "status", "k")["done"]), "the class is ready", 60)
    states = {s["name"]: s["state"] for s in daemon.json("class", "status", "k")["students"]}
    assert states == {"ann": "running", "bob": "running", "cyd": "running", "dan": "running"}
    assert daemon.pids("k-ann") == before, "the others were left alone"

    daemon.lab("class", "destroy", "k")
    assert names(daemon) == []
    assert daemon.json("class", "ls") == {"classes": []}
    assert daemon.leaks() == []
