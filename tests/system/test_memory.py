"""A host that is short of memory, and labs that want too much, on real QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.harness import TEMPLATES, Daemon, until

BOOT = str(TEMPLATES / "bootsector.yaml")
# More than any host has: it is short of memory as long as this stands.
SHORT = "[memory]\npause_below_mib = 16777216\nstall_percent = 0\n[quotas]\nmemory_mib = 8\n"


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_newest_lab_is_paused_when_the_host_is_short_of_memory(daemon: Daemon) -> None:
    daemon.image("bootsector")
    for name in ("older", "newer"):
        daemon.lab("up", BOOT, "--name", name)
    (older,), (newer,) = daemon.pids("older").values(), daemon.pids("newer").values()
    until(lambda: (score(older), score(newer)) == (300, 900), "the kernel kills the newer first")
    assert daemon.json("top", "--once", "-n", "0.2")["host"]["memory_low"] is False
    daemon.stop()
    (daemon.root / "etc" / "labd.toml").write_text(SHORT)
    daemon.start()
    until(lambda: daemon.states("newer") == {"boot": "paused"}, "the newer one is paused")
    (node,) = daemon.nodes("newer").values()
    assert "the host is short of memory" in node["reason"]
    until(lambda: "io.labd.lab.paused" in [e["type"] for e in daemon.events()], "it is told")
    kinds = [event["type"] for event in daemon.events()]
    assert kinds.index("io.labd.host.memory-low") < kinds.index("io.labd.lab.paused")
    assert daemon.states("older") == {"boot": "ready"}
    assert "the host is short of memory" in daemon.lab("top", "--once", "-n", "0.2")
    # A person decides; it stays so, for memory does not fall.
    daemon.lab("resume", "newer")
    assert daemon.states("newer") == {"boot": "ready"}
    # What no lab may have is refused before anything changes.
    seq = daemon.events()[-1]["seq"]
    said = daemon.lab("up", BOOT, "--name", "third", expect=1)
    assert said.startswith("lab: lab third asks for 16 MiB of memory where 8 MiB is allowed; ")
    assert daemon.changes(seq) == []


BALLOON = """name: one
nodes: {a: {image: tiny, memory: 256 MiB, accel: tcg}}
"""


def rss(pid: int) -> int:
    """Return the MiB that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


@pytest.mark.usefixtures("built_tiny")
def test_what_a_guest_frees_goes_back_to_the_host_and_no_copy_frees_what_others_share(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.image()
    (tmp_path / "one.yaml").write_text(BALLOON)
    daemon.lab("up", str(tmp_path / "one.yaml"), "--name", "b")
    (pid,) = daemon.pids("b").values()
    daemon.lab("exec", "b/a", "--", "dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=96")
    full = rss(pid)
    daemon.lab("exec", "b/a", "--", "rm", "/tmp/big")
    until(lambda: rss(pid) < full - 64, lambda: f"{full} MiB full, {rss(pid)} MiB now", 60)

    make = "dd if=/dev/urandom of=/tmp/kept bs=1M count=16 2>/dev/null; sha1sum /tmp/kept"
    kept = daemon.lab("exec", "b/a", "--", "sh", "-c", make)
    daemon.lab("checkpoint", "save", "b", "c")
    daemon.lab("fork", "c", "copy", "--count", "2")
    # One copy frees it, and has QEMU try to let the frozen memory go, which is sealed.
    daemon.lab("exec", "copy-1/a", "--", "rm", "/tmp/kept")
    until(lambda: "ram_block_discard_range" in said(daemon, "copy-1"), "QEMU has tried", 60)
    for lab in ("b", "copy-2"):
        assert daemon.lab("exec", f"{lab}/a", "--", "sha1sum", "/tmp/kept") == kept


def said(daemon: Daemon, lab: str) -> str:
    """Return what the QEMU of a lab's node has said, which is its standard error."""
    (pid,) = daemon.pids(lab).values()
    return Path(f"/proc/{pid}/fd/2").read_text()
