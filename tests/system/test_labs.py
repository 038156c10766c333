"""Labs on real QEMU, bridges and broker; asserted on the kernel, QMP and a subscriber."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import privileges
from tests.system.harness import (
    TEMPLATES,
    Daemon,
    Json,
    ask_qemu,
    cmdline,
    end,
    is_alive,
    until,
)

pytestmark = pytest.mark.usefixtures("built_tiny")


def template(name: str) -> str:
    return str(TEMPLATES / f"{name}.yaml")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def boot_sectors(name: str, count: int, more: str = "") -> str:
    """Return a template of `count` boot sectors `n-1`, `n-2`…"""
    keys = "image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB"
    return f"name: {name}\nnodes:\n  n: {{{keys}, count: {count}{', ' + more if more else ''}}}\n"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("hello", {"hello"}),
        ("two-tier", {"client", "router", "server"}),
        ("lan-party", {"player-1", "player-2", "player-3"}),
        ("bootsector", {"boot"}),
    ],
)
def test_every_shipped_template_goes_up_and_down(
    daemon: Daemon, name: str, nodes: set[str]
) -> None:
    daemon.image("tiny")
    daemon.image("bootsector")
    settings = ["--set", "players=3"] if name == "lan-party" else []
    daemon.lab("up", template(name), *settings)
    status = daemon.nodes(name)
    assert {n["state"] for n in status.values()} == {"ready"}
    assert set(status) == nodes
    pids = {int(node["pid"]) for node in status.values()}
    assert set(daemon.qemus()) == pids
    assert len(daemon.namespaces()) == 1
    for node in status.values():
        assert daemon.qmp(node["key"], "query-status")["status"] == "running"
        assert daemon.qmp(node["key"], "query-uuid")["UUID"] == node["uuid"]

    daemon.lab("down", name, "--force")
    assert daemon.qemus() == []
    assert daemon.namespaces() == []
    assert set(daemon.states(name).values()) == {"stopped"}

    daemon.lab("up", template(name), *settings)
    assert set(daemon.states(name).values()) == {"ready"}
    assert not set(daemon.qemus()) & pids
    daemon.lab("destroy", name)
    assert daemon.leaks() == []
    daemon.lab("status", name, expect=4)


def test_client_reaches_server_through_router(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", template("two-tier"))
    said = daemon.console("two-tier/client", "ping -c 2 -W 5 server", r"2 packets received")
    assert "ttl=63" in said, "one router lies between them"


def test_two_labs_of_one_template_never_meet(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", template("two-tier"), "--name", "alice")
    daemon.lab("up", template("two-tier"), "--name", "bob")
    a, b = (json.dumps(daemon.json("status", lab)["spec"]) for lab in ("alice", "bob"))
    assert a == b, "same addresses, same MACs"
    spaces = daemon.namespaces()
    assert len(spaces) == 2

    def counters(space: str) -> dict[str, int]:
        out = subprocess.run(
            ["ip", "-n", space, "-j", "-s", "link"], capture_output=True, text=True, check=True
        ).stdout
        return {
            link["ifname"]: link["stats64"]["rx"]["packets"]
            for link in json.loads(out)
            if link["ifname"] != "lo"
        }

    key = {lab: daemon.json("status", lab)["key"] for lab in ("alice", "bob")}
    space = {lab: next(s for s in spaces if s.endswith(key[lab])) for lab in key}
    daemon.console("alice/client", "hostname > /tmp/me; echo alice >> /tmp/me; sync", "#")
    daemon.console("bob/client", "ping -c 1 -W 5 server", "1 packets received")
    for busy, other in (("alice", "bob"), ("bob", "alice")):
        quiet = counters(space[other])
        daemon.console(f"{busy}/client", "ping -c 20 -i 0.1 -W 5 server", "20 packets received")
        after = counters(space[other])
        # A guest may say a word of its own (ARP, IPv6); twenty pings over four taps it is not.
        assert sum(after.values()) - sum(quiet.values()) < 20, (quiet, after)
    assert "No such file" in daemon.console("bob/client", "cat /tmp/me", "/tmp/me.*\n.*#")


def test_a_subscriber_hears_every_event_in_order(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("bootsector")
    broker = daemon.json("version")["daemon"]["broker"]
    record = tmp_path / "record"
    with record.open("wb") as out:
        listener = subprocess.Popen(
            [
                *("mosquitto_sub", "-V", "5", "-q", "1", "-t", f"labd/v1/{daemon.host_id}/#"),
                *mosquitto_args(broker),
            ],
            stdout=out,
        )
    try:
        until(lambda: b"online" in record.read_bytes(), "the retained status", 10)
        start = int(daemon.events()[-1]["seq"])
        daemon.lab("up", template("bootsector"))
        daemon.lab("destroy", "bootsector")
        told = daemon.events(after=start)
        assert [e["seq"] for e in told] == list(range(start + 1, start + 1 + len(told)))

        def heard() -> list[Json]:
            lines = [line for line in record.read_text().splitlines() if line.strip()]
            return [e for e in map(json.loads, lines) if e.get("seq", 0) > start]

        def events() -> list[Json]:
            return [e for e in heard() if not e["type"].endswith(".snapshot")]

        until(lambda: len(events()) >= len(told), "all events", 10)
        assert [e["seq"] for e in events()] == [e["seq"] for e in told]
        assert events() == told
        types = [e["type"].removeprefix("io.labd.") for e in told]
        for earlier, later in [
            ("operation.started", "lab.created"),
            ("lab.created", "node.starting"),
            ("node.starting", "node.running"),
            ("node.running", "node.ready"),
            ("node.ready", "node.destroyed"),
            ("node.destroyed", "lab.destroyed"),
        ]:
            assert types.index(earlier) < types.index(later), types
    finally:
        listener.kill()
        listener.wait(60)


def mosquitto_args(broker: Json) -> list[str]:
    """Return how mosquitto_sub reaches the managed broker as an administrator."""
    return [
        "-h",
        str(broker["host"]),
        "-p",
        str(broker["port"]),
        "-u",
        str(broker["username"]),
        "-P",
        Path(str(broker["password_file"])).read_text().strip(),
    ]


def test_a_killed_daemon_loses_nothing(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(forked=False)
    daemon.image()
    daemon.lab("up", template("two-tier"))
    before = daemon.pids("two-tier")
    daemon.console("two-tier/client", "echo here > /tmp/mark", "#")
    last = int(daemon.events()[-1]["seq"])
    daemon.kill()
    assert all(is_alive(pid) for pid in before.values())
    end(before["server"])
    daemon.start()
    pids = daemon.pids("two-tier")
    assert pids["client"] == before["client"]
    assert pids["router"] == before["router"]
    assert daemon.states("two-tier") == {"client": "ready", "router": "ready", "server": "crashed"}
    assert "here" in daemon.console("two-tier/client", "cat /tmp/mark", "here")
    meanwhile = daemon.events(after=last)
    assert [e["seq"] for e in meanwhile] == list(range(last + 1, last + 1 + len(meanwhile)))
    crash = next(e for e in meanwhile if e["type"] == "io.labd.node.crashed")
    assert crash["node"] == "server"
    assert "away" in crash["data"]["reason"]
    adopted = {e["node"] for e in meanwhile if e["type"] == "io.labd.node.adopted"}
    assert adopted == {"client", "router"}
    daemon.lab("start", "two-tier/server")
    daemon.console("two-tier/client", "ping -c 1 -W 5 server", "1 packets received")


def test_a_daemon_killed_in_the_middle_of_up_goes_on(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", template("two-tier"), "--no-wait")
    until(lambda: len(daemon.qemus()) >= 1, "the first QEMU", 30)
    daemon.kill()
    daemon.start()
    daemon.lab("wait", "two-tier", "--timeout", "120")
    assert set(daemon.states("two-tier").values()) == {"ready"}
    assert len(daemon.qemus()) == 3
    daemon.console("two-tier/client", "ping -c 1 -W 5 server", "1 packets received")


def test_a_daemon_killed_in_the_middle_of_destroy_goes_on(daemon: Daemon) -> None:
    daemon.image("bootsector")
    path = write(daemon.root / "many.yaml", boot_sectors("many", 6))
    daemon.lab("up", path)
    daemon.lab("destroy", "many", "--no-wait")
    daemon.kill()
    daemon.start()
    until(lambda: daemon.json("ls")["labs"] == [], "the lab is gone", 30)
    assert daemon.leaks() == []


def test_sigterm_leaves_machines_running_and_down_does_not(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(forked=False)
    daemon.image("bootsector")
    daemon.lab("up", template("bootsector"))
    pids = daemon.qemus()
    assert daemon.stop() == 0
    assert all(is_alive(pid) for pid in pids)
    daemon.start("--down")
    assert daemon.qemus() == pids
    assert daemon.stop() == 0
    assert not any(is_alive(pid) for pid in pids)
    daemon.start()
    assert set(daemon.states("bootsector").values()) == {"stopped"}


def test_a_second_daemon_on_the_same_root_is_refused(daemon: Daemon) -> None:
    assert daemon.process is not None
    assert str(daemon.process.pid) in daemon.refused()


def test_the_watchdog_plugin_brings_a_killed_node_back(daemon: Daemon) -> None:
    daemon.image("bootsector")
    text = Path(template("bootsector")).read_text()
    if "restart" not in text:
        text = re.sub(r"(\n( +)image: .*\n)", r"\1\2restart: {mode: on-failure}\n", text, count=1)
    daemon.lab("plugin", "enable", "watchdog")
    daemon.lab("up", write(daemon.root / "again.yaml", text), "--name", "again")
    (victim,) = daemon.pids("again").values()
    end(victim)
    until(
        lambda: (
            set(daemon.states("again").values()) == {"ready"}
            and victim not in daemon.pids("again").values()
        ),
        "the node is ready again",
        60,
    )


def test_a_failing_up_leaves_nothing_behind(daemon: Daemon) -> None:
    daemon.image("bootsector")
    never = (
        "name: never\nnodes:\n"
        "  a: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB}\n"
        "  b: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB,\n"
        "      ready: {console: no such line, timeout: 2s}}\n"
    )
    path = write(daemon.root / "never.yaml", never)
    message = daemon.lab("up", path, expect=1)
    assert message.splitlines()[-1] == (
        "lab: node never/b is not ready after 2 s: no console pattern 'no such line'; never/b said "
        "last: 'labd: ready bootsector'; with --keep, `lab up` leaves it to look at"
    )
    assert daemon.json("ls")["labs"] == []
    assert daemon.leaks() == []
    assert daemon.lab("up", path, "--keep", expect=1).endswith("; `lab logs never/b` shows more\n")
    assert daemon.json("status", "never")["state"] == "failed"
    assert len(daemon.qemus()) == 2


EDIT = """name: edit
parameters:
  size: {type: size, default: 16 MiB}
networks: {lan: {}}
nodes:
  a: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB,
      nics: {eth0: {network: lan, model: e1000}}}
  b: {image: bootsector, machine: pc, disk_bus: ide, memory: "${size}",
      nics: {eth0: {network: lan, model: e1000}}}
"""


def test_up_of_an_edited_file_applies_the_difference(daemon: Daemon) -> None:
    daemon.image("bootsector")
    path = write(daemon.root / "edit.yaml", EDIT)
    daemon.lab("up", path)
    first = daemon.pids("edit")
    assert daemon.json("plan", path)["changes"] == []
    daemon.lab("up", path)
    assert daemon.pids("edit") == first, "up on a running lab changes nothing"

    more = EDIT.replace(
        "  a: {", "  c: {image: bootsector, machine: pc, disk_bus: ide, memory: 16 MiB}\n  a: {"
    )
    write(daemon.root / "edit.yaml", more)
    plan = daemon.json("plan", path, "--set", "size=24 MiB")["changes"]
    assert [(c["action"], c["name"]) for c in plan] == [("create", "c"), ("replace", "b")]
    daemon.lab("up", path, "--set", "size=24 MiB")
    second = daemon.pids("edit")
    assert second["a"] == first["a"], "what did not change keeps running"
    assert second["b"] != first["b"]
    assert set(second) == {"a", "b", "c"}

    write(daemon.root / "edit.yaml", EDIT)
    daemon.lab("up", path, "--set", "size=24 MiB")
    assert daemon.pids("edit") == {name: second[name] for name in ("a", "b")}
    assert len(daemon.qemus()) == 2


def test_pause_resume_reset_stop_start_restart(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", template("hello"))
    ((name, node),) = daemon.nodes("hello").items()
    ref = f"hello/{name}"
    daemon.lab("pause", ref)
    assert daemon.states("hello")[name] == "paused"
    assert daemon.qmp(node["key"], "query-status")["status"] == "paused"
    assert "is paused, and must be" in daemon.lab("pause", ref, expect=1)
    daemon.lab("resume", ref)
    assert daemon.states("hello")[name] == "ready"
    daemon.lab("stop", ref)
    assert daemon.states("hello")[name] == "stopped"
    stopped = [e for e in daemon.events() if e["type"] == "io.labd.node.stopped"][-1]
    assert stopped["data"]["graceful"] is True, "the guest was asked, and obeyed"
    daemon.lab("start", ref)
    first = daemon.pids("hello")[name]
    daemon.lab("restart", ref, "--force")
    assert daemon.pids("hello")[name] != first
    assert daemon.states("hello")[name] == "ready"
    daemon.lab("reset", ref)
    daemon.lab("wait", ref, "--for", "ready", "--timeout", "60")
    told = [e["type"].removeprefix("io.labd.node.") for e in daemon.events()]
    assert "ready" in told[told.index("reset") :], "after a reset the guest has to say it again"


def test_a_guest_that_powers_itself_off_is_told(daemon: Daemon) -> None:
    daemon.image()
    daemon.lab("up", template("hello"))
    (name,) = daemon.states("hello")
    daemon.console(f"hello/{name}", "echo going; poweroff -f", "going")
    until(lambda: daemon.states("hello")[name] == "stopped", "the node is stopped", 30)
    told = [e for e in daemon.events() if e["type"] == "io.labd.node.stopped"][-1]
    assert told["data"]["cause"] == "guest-poweroff"
    assert daemon.qemus() == []


def test_a_hung_qemu_is_unresponsive_and_holds_nobody_up(daemon: Daemon) -> None:
    daemon.image("bootsector")
    daemon.lab("up", write(daemon.root / "hung.yaml", boot_sectors("hung", 3)))
    victim = daemon.pids("hung")["n-2"]
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    daemon.lab("ls")
    daemon.lab("status", "hung")
    daemon.lab("pause", "hung/n-1")
    assert time.monotonic() - began < 5
    until(lambda: daemon.states("hung")["n-2"] == "unresponsive", "it is unresponsive", 60)
    os.kill(victim, signal.SIGCONT)
    until(lambda: daemon.states("hung")["n-2"] == "ready", "it is well again", 60)
    os.kill(victim, signal.SIGSTOP)
    daemon.lab("destroy", "hung", "--force")
    assert not is_alive(victim)


def test_a_host_without_room_refuses_before_it_starts_anything(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon()
    daemon.image()
    big = "name: big\nnodes:\n  n: {image: tiny, count: 40, memory: 60 GiB}\n"
    message = daemon.lab("up", write(daemon.root / "big.yaml", big), expect=1)
    assert "lab big does not fit: its 40 nodes need 2.3 TiB" in message
    assert daemon.json("ls")["labs"] == []
    assert daemon.leaks() == []


def test_every_qemu_has_least_privilege(daemon: Daemon) -> None:
    """The same is asked at the end of every test of each QEMU that it leaves."""
    daemon.image("bootsector")
    nic = "nics: {eth0: {network: lan, model: e1000}}"
    text = boot_sectors("least", 2, nic) + "networks: {lan: {}}\n"
    daemon.lab("up", write(daemon.root / "least.yaml", text))
    pids = daemon.qemus()
    assert len(pids) == 2
    assert privileges.troubles(pids, daemon.root) == []
    # Its rules would tell: this very process is root, on the host, and has everything open.
    assert len(privileges.troubles([os.getpid()], daemon.root)) > 4
    for pid in pids:
        argv = cmdline(pid).split(b"\0")
        for option in (b"-nodefaults", b"-no-user-config", b"-S", b"-sandbox"):
            assert option in argv
    for monitor in sorted((daemon.root / "run" / "n").glob("*/hmp.sock")):
        writes_nothing(monitor, daemon.root)


def writes_nothing(monitor: Path, root: Path) -> None:
    """Have a QEMU write files by its own monitor, where nothing but Landlock stands in the way."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        for file in (Path(name) / "x", root / "run" / "x"):
            answer = ask_qemu(monitor, "pmemsave", val=0, size=16, filename=str(file))
            assert "error" in answer, answer
        assert os.listdir(name) == []


def test_destroy_of_an_unknown_lab_and_node(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon('[daemon]\ngroup = "none-such"\n')
    assert daemon.log.read_text().count("there is no group none-such") == 1
    assert "there is no lab nothing" in daemon.lab("destroy", "nothing", expect=4)
    assert "there is no lab nothing" in daemon.lab("status", "nothing", expect=4)
    assert "there is no lab nothing" in daemon.lab("stop", "nothing/node", expect=4)


def test_doctor_judges_a_host_without_a_daemon(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(start=False)
    done = daemon.run("--json", "doctor")
    findings = {item["name"]: item for item in json.loads(done.stdout)["findings"]}
    assert findings["root"]["level"] == "ok"
    assert findings["qemu"]["level"] == "ok"
    assert done.returncode == int(any(item["level"] == "fail" for item in findings.values()))
    text = daemon.run("doctor")
    assert text.stderr == "lab: labd does not run; looking at the host without it\n"
    assert "root: running as root" in text.stdout
    (daemon.root / "etc" / "labd.toml").write_text("[daemon]\naccel = 'fast'\n")
    assert daemon.run("doctor").returncode == 2
