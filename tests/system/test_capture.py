"""`lab capture`, read by tshark as somebody would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.children import running
from tests.system.harness import BIN, Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")

LAB = """
name: seen
networks:
  lan: {subnet: 10.0.0.0/24}
nodes:
  a:
    image: tiny
    nics: {eth0: {network: lan, address: 10.0.0.1/24}}
    commands: [[sh, -c, "ping 10.0.0.2 >/dev/null 2>&1 &"]]
  b:
    image: tiny
    nics: {eth0: {network: lan, address: 10.0.0.2/24}}
"""


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(daemon: Daemon) -> Iterator[Start]:
    """Return what starts a capture, which ends with the test at the latest."""
    with ExitStack() as stack:

        def begin(*args: str) -> subprocess.Popen[bytes]:
            words = [BIN / "lab", "--root", daemon.root, "capture", *args]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return stack.enter_context(running(words, 300, **pipes))

        yield begin


def rows(file: Path, *fields: str) -> list[str]:
    argv = [
        "tshark",
        "-r",
        str(file),
        "-T",
        "fields",
        *(word for f in fields for word in ("-e", f)),
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def packet_sockets(namespace: str) -> list[str]:
    argv = ["ip", "netns", "exec", namespace, "cat", "/proc/net/packet"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[1:]


def test_captures_of_real_guests(daemon: Daemon, start: Start, tmp_path: Path) -> None:
    daemon.image()
    template = tmp_path / "seen.yaml"
    template.write_text(LAB)
    daemon.lab("up", str(template))
    file = tmp_path / "x.pcapng"
    told = daemon.json(
        "capture", "seen", "lan", "-w", str(file), "--filter", "icmp", "--count", "4"
    )
    assert (told["packets"], told["dropped"], told["reason"]) == (4, 0, "count")
    assert set(rows(file, "ip.addr")) == {"10.0.0.1,10.0.0.2", "10.0.0.2,10.0.0.1"}
    file.unlink()
    # A NIC, until Ctrl-C, while another one goes on.
    other = start("seen", "lan", "-w", str(tmp_path / "other"))
    nic = start("seen/b/eth0", "-w", str(file))
    until(lambda: file.exists() and file.stat().st_size > 500, "packets", 30)
    nic.send_signal(signal.SIGINT)
    _, said = nic.communicate(timeout=60)
    assert nic.returncode == 0, said
    assert said.decode().endswith(f" in {file}, 0 dropped\n")
    assert "icmp" in "".join(rows(file, "frame.protocols"))
    # A pipe whose reader goes, and one with tshark behind it.
    piped = start("seen", "lan")
    assert piped.stdout is not None
    assert piped.stdout.read(4) == b"\n\r\r\n"
    piped.stdout.close()
    assert piped.wait(60) == 0
    live = subprocess.run(
        f"{BIN}/lab --root {daemon.root} capture seen lan -w - --count 2 | tshark -r - -T json",
        shell=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert len(json.loads(live.stdout)) == 2
    # A client that is killed leaves nothing.
    [namespace] = daemon.namespaces()
    killed = start("seen", "lan", "-w", str(tmp_path / "killed"))
    until(lambda: len(packet_sockets(namespace)) == 2, "two captures")
    killed.kill()
    killed.communicate()
    until(lambda: len(packet_sockets(namespace)) == 1, "only the other one is left")
    # The end of the lab is the end of its captures.
    daemon.lab("destroy", "--force", "seen")
    _, said = other.communicate(timeout=60)
    assert other.returncode == 0
    assert "lab seen is down" in said.decode() or "the interface has gone" in said.decode()
    assert len(rows(tmp_path / "other", "frame.number")) > 4


def test_a_client_that_does_not_read_costs_little(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    daemon.image()
    template = tmp_path / "seen.yaml"
    template.write_text(LAB.replace("ping 10.0.0.2", "ping -f 10.0.0.2"))
    daemon.lab("up", str(template))
    pid = daemon.process.pid if daemon.process else 0

    def memory() -> int:
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) << 10

    before = memory()
    slow = start("seen", "lan")  # its stdout is a pipe that nobody reads
    time.sleep(8)
    assert memory() - before < 32 << 20
    slow.kill()
    slow.communicate()


def test_bad_captures(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image("bootsector")
    template = tmp_path / "seen.yaml"
    text = LAB.replace("image: tiny", "image: bootsector")
    template.write_text("\n".join(line for line in text.splitlines() if "commands" not in line))
    daemon.lab("up", str(template))
    daemon.lab("stop", "seen/b", "--force")
    file = str(tmp_path / "x")
    for args, status, says in (
        (("seen", "lam"), 4, "lab: there is no link or network lam; did you mean 'lan'?"),
        (("seen/a/eth7",), 4, "lab: there is no NIC a/eth7; did you mean 'a/eth0'?"),
        (
            ("seen/b/eth0",),
            1,
            (
                "lab: cannot capture at seen/b: it is stopped, and must be paused, running, "
                "ready, starting, stopping or unresponsive"
            ),
        ),
        (
            ("seen", "lan", "--filter", "tcp prot"),
            2,
            (
                "lab: filter 'tcp prot': can't parse filter expression: syntax error; "
                "see pcap-filter(7)"
            ),
        ),
        (("seen",), 2, "lab: name a link or network (lab capture web lan) or a NIC"),
    ):
        found = daemon.run("capture", *args, "-w", file)
        assert found.returncode == status, found.stderr
        assert found.stderr.startswith(says) or "seen/b" in says, found.stderr
        assert len(found.stderr.splitlines()) == 1
        assert not os.path.exists(file)
    found = daemon.run("capture", "seen", "lan", "-w", "/nowhere/x")
    assert (found.returncode, found.stderr) == (
        2,
        "lab: cannot write /nowhere/x: No such file or directory; choose another -w\n",
    )
