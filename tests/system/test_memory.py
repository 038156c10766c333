"""A host that is short of memory, and labs that want too much, on real QEMU."""

from __future__ import annotations

from pathlib import Path

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
    assert daemon.events(seq) == []
