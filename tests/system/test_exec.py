"""`lab exec` and `lab cp` in real guests, in thirty copies of a lab at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import BIN, TEMPLATES, Daemon

pytestmark = pytest.mark.usefixtures("built_tiny")

TWO_TIER = str(TEMPLATES / "two-tier.yaml")
NODES = ("router", "server", "client")
COPIES = 30


def test_thirty_copies_answer_each_with_its_own_parameter(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    template = tmp_path / "two-tier.yaml"
    told = '    on_fork: [[sh, -c, "echo $LABD_LAB-$(hostname)-$LABD_COURSE > /tmp/marker"]]\n'
    text = Path(TWO_TIER).read_text()
    template.write_text(text.replace("    image: ${image}\n", "    image: ${image}\n" + told))
    daemon.lab("up", str(template))
    commands_and_files(daemon, tmp_path)
    time_line(daemon)
    usage(daemon)
    daemon.lab("checkpoint", "save", "two-tier", "c")
    daemon.lab("fork", "c", "copy", "--count", str(COPIES), "--set", "course=net")
    copies = [f"copy-{number}" for number in range(1, COPIES + 1)]

    def read(lab: str) -> str:
        return daemon.lab("exec", "-n", "--all", lab, "--", "cat", "/tmp/marker")

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = dict(zip(copies, pool.map(read, copies), strict=True))
    assert found == {
        lab: "".join(f"{node}: {lab}-{node}-net\n" for node in sorted(NODES)) for lab in copies
    }
    with ThreadPoolExecutor(max_workers=4) as pool:
        addresses = pool.map(
            lambda lab: daemon.lab("exec", "-n", f"{lab}/server", "hostname", "-i"), copies
        )
    assert len(set(addresses)) == 1, "the copies have the same addresses"


def time_line(daemon: Daemon) -> None:
    items = [
        json.loads(line) for line in daemon.lab("--json", "logs", "two-tier/client").splitlines()
    ]
    assert items == sorted(items, key=lambda item: item["time"])
    console = [item for item in items if item["source"] == "console"]
    ready = next(item["time"] for item in console if "labd: ready client" in item["text"])
    at = {item["text"].split()[0]: item["time"] for item in items if item["source"] == "labd"}
    assert at["node.starting"] < at["node.running"] < ready <= at["node.ready"]
    assert daemon.lab("logs", "--since", "2100-01-01T00:00:00Z", "two-tier/client") == ""


def usage(daemon: Daemon) -> None:
    """Ask what nodes take while one sends packets."""
    before = {item["node"]: item for item in daemon.json("top", "-n", "0.2")["nodes"]}
    daemon.lab("exec", "-n", "two-tier/client", "ping", "-c", "5", "-i", "0.1", "server")
    found = {item["node"]: item for item in daemon.json("top", "-n", "0.2", "two-tier")["nodes"]}
    assert set(found) == set(NODES)
    for name, item in found.items():
        assert item["own"] > 20 << 20, "a booted node has memory of its own"
        assert item["cpu"] > before[name]["cpu"]
    for name, echoes in (("client", 5), ("router", 10), ("server", 5)):
        assert found[name]["received_packets"] >= before[name]["received_packets"] + echoes
    assert "two-tier" in daemon.lab("top", "--labs", "-n", "0.2")


def commands_and_files(daemon: Daemon, tmp_path: Path) -> None:
    lab = [str(BIN / "lab"), "--root", str(daemon.root)]
    words = [*lab, "exec", "two-tier/client", "--", "sh", "-c", "tr a-z A-Z; echo no >&2; exit 9"]
    done = subprocess.run(words, input=b"loud", capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, b"LOUD", b"no\n")
    daemon.lab("exec", "-n", "two-tier/client", "--", "sh", "-c", "kill -9 $$", expect=137)
    said = daemon.lab("exec", "-n", "two-tier/client", "nosuch", expect=255)
    assert re.match("lab: the guest agent of two-tier/client refused guest-exec: .*nosuch", said)
    slow = daemon.lab(
        "exec", "-n", "--timeout", "0.5", "two-tier/client", "sleep", "60", expect=255
    )
    assert slow == (
        "lab: 'sleep' in two-tier/client did not end within 0.5 s; it may still run in the guest\n"
    )

    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(3 << 20))
    (tree / "sub" / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "sub" / "run").chmod(0o755)
    (tree / "link").symlink_to("/etc/passwd")
    daemon.lab("cp", "-r", str(tree), "two-tier/server:/tmp/")
    assert daemon.lab("exec", "-n", "two-tier/server", "/tmp/tree/sub/run") == "ran\n"
    daemon.lab("exec", "-n", "two-tier/server", "ln", "-s", "/etc", "/tmp/tree/out")
    back = tmp_path / "back"
    daemon.lab("cp", "-r", "two-tier/server:/tmp/tree", str(back))
    names = sorted(str(path.relative_to(back)) for path in back.rglob("*"))
    assert names == ["big", "sub", "sub/run"]
    assert (back / "big").read_bytes() == (tree / "big").read_bytes()
    daemon.lab("cp", "two-tier/server:/tmp/tree/big", str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == (tree / "big").read_bytes()
    full = daemon.lab("cp", "/dev/zero", "two-tier/server:/dev/full", expect=1)
    assert "No space left on device" in full
    daemon.lab("exec", "-n", "two-tier/server", "rm", "-r", "/tmp/tree")


def test_what_cannot_be_asked_is_told(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", str(TEMPLATES / "bootsector.yaml"))
    said = daemon.lab("exec", "-n", "bootsector/boot", "true", expect=255)
    assert said == (
        "lab: the guest agent of bootsector/boot is not there: the image needs qemu-guest-agent, "
        "and the guest must have started it\n"
    )
    assert daemon.lab("exec", "-n", "bootsector", "true", expect=2) == (
        "lab: 'bootsector' is a lab: name a node, as bootsector/NODE, or ask every node with "
        "--all\n"
    )
    daemon.lab("pause", "bootsector")
    said = daemon.lab("exec", "-n", "bootsector/boot", "true", expect=255)
    assert said.startswith("lab: cannot run a command in bootsector/boot: it is paused")
    os.kill(daemon.pids("bootsector")["boot"], signal.SIGKILL)
    problem = json.loads(daemon.lab("--json", "exec", "-n", "bootsector/boot", "true", expect=255))
    assert problem["code"] in {"illegal_transition", "node_gone"}
