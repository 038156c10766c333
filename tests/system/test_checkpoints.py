"""Checkpoints and forks on real QEMU: asserted in the guests and in the kernel."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import TEMPLATES, Daemon, end, is_alive, until

pytestmark = pytest.mark.usefixtures("built_tiny")

TWO_TIER = str(TEMPLATES / "two-tier.yaml")


def counter(daemon: Daemon, node: str) -> int:
    """Return the number that a node writes again and again; it may just be writing it."""
    said: list[str] = []

    def seen() -> bool:
        said[:] = daemon.lab("exec", "-n", node, "cat", "/tmp/n").split()
        return bool(said)

    until(seen, f"{node} has written a number")
    return int(said[0])


def received(daemon: Daemon, lab: str) -> int:
    """Return the last number that a lab's server got over the connection."""
    text = daemon.lab("exec", "-n", f"{lab}/server", "tail", "-n", "1", "/tmp/got")
    return int(text or 0)


@pytest.fixture
def saved(daemon: Daemon) -> Daemon:
    """Return a daemon with two-tier, in which things go on, saved as `c`."""
    daemon.image()
    daemon.lab("up", TWO_TIER)
    # A connection through the router, over which a number comes ten times a second.
    daemon.console("two-tier/server", "(nc -l -p 7000 > /tmp/got) & echo o''k", "ok")
    daemon.console(
        "two-tier/client",
        "(i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done) | nc server 7000 & echo o''k",
        "ok",
    )
    until(lambda: received(daemon, "two-tier") > 0, "the connection stands")
    daemon.console(
        "two-tier/client",
        "(i=0; while true; do i=$((i+1)); echo $i > /tmp/m; mv /tmp/m /tmp/n; sleep 0.1; done) & "
        "exec 9> /tmp/open; echo before >&9; echo o''k",
        "ok",
    )
    daemon.lab("checkpoint", "save", "two-tier", "c", "-m", "all set")
    return daemon


def test_a_fork_goes_on_where_the_lab_stood(saved: Daemon) -> None:
    found = saved.json("checkpoint", "show", "c")
    assert found["message"] == "all set"
    assert [node["name"] for node in found["nodes"]] == ["router", "server", "client"]
    assert found["nodes"][0]["machine"].startswith("pc-q35-")
    assert 0 < found["spread_ms"] <= found["pause_ms"], "one barrier, and measured"
    assert set(saved.states("two-tier").values()) == {"ready"}, "the source goes on"

    saved.lab("fork", "c", "copy")
    assert set(saved.states("copy").values()) == {"ready"}
    assert len(saved.namespaces()) == 2
    first = counter(saved, "copy/client")
    assert first > 0
    until(lambda: counter(saved, "copy/client") > first, "the counter of the copy goes on")
    before = counter(saved, "two-tier/client")
    until(lambda: counter(saved, "two-tier/client") > before, "the source's goes on, too")
    said = saved.console("copy/client", "ping -c 2 -W 5 server", r"packets received")
    assert "2 packets received" in said
    assert "ttl=63" in said

    # The connection between two nodes goes on, in both. It has the same addresses, ports and
    # sequence numbers in both, so that one packet of the other lab would spoil it.
    last = {lab: received(saved, lab) for lab in ("copy", "two-tier")}
    for lab, number in last.items():
        until(lambda a=lab, n=number: received(saved, a) > n, f"{lab} is sent more")  # type: ignore[misc]
        got = saved.lab("exec", "-n", f"{lab}/server", "cat", "/tmp/got").split()
        assert [int(word) for word in got] == list(range(1, len(got) + 1)), "no byte is lost"

    # What one writes, the other does not see: an open file, too.
    saved.console("copy/client", "echo copied >&9; cat /tmp/open; echo e''nd", "end")
    assert "copied" in saved.console("copy/client", "cat /tmp/open; echo e''nd", "end")
    assert "copied" not in saved.console("two-tier/client", "cat /tmp/open; echo e''nd", "end")

    # It is reached by the key of its own lab.
    assert int(saved.lab("ssh", "copy/client", "cat", "/tmp/n")) > 0
    # Its clock is the host's.
    asked = time.time()
    now = saved.console("copy/client", "date +%s; echo e''nd", r"\d+\s+end")
    assert asked - 3 < int(re.findall(r"(\d+)\s+end", now)[0]) < time.time() + 3


def test_the_lab_is_gone_and_the_checkpoint_is_not(saved: Daemon) -> None:
    saved.lab("destroy", "two-tier", "--force")
    saved.kill()
    saved.start()
    saved.lab("fork", "c", "k", "--count", "2")
    assert set(saved.states("k-2").values()) == {"ready"}
    assert "k-1, k-2" in saved.lab("checkpoint", "rm", "c", expect=1)
    saved.lab("destroy", "k-1", "k-2", "--force")
    saved.lab("checkpoint", "rm", "c")
    assert saved.json("checkpoint", "ls") == {"checkpoints": []}


def test_a_fork_of_a_fork(saved: Daemon) -> None:
    saved.lab("fork", "c", "child")
    saved.console("child/client", "echo child > /tmp/me; echo o''k", "ok")
    saved.lab("checkpoint", "save", "child", "d")
    saved.lab("fork", "d", "grandchild")
    assert "child" in saved.console("grandchild/client", "cat /tmp/me; echo e''nd", "end")
    assert counter(saved, "grandchild/client") > 0
    said = saved.console("grandchild/client", "ping -c 2 -W 5 server", r"packets received")
    assert "2 packets received" in said
    saved.lab("destroy", "child", "--force")
    assert set(saved.states("grandchild").values()) == {"ready"}


def test_a_fork_is_restored_in_place(saved: Daemon) -> None:
    saved.console("two-tier/client", "echo late > /tmp/late; echo o''k", "ok")
    pids = saved.pids("two-tier")
    saved.lab("checkpoint", "restore", "two-tier", "c")
    assert set(saved.states("two-tier").values()) == {"ready"}
    assert not any(is_alive(pid) for pid in pids.values())
    said = saved.console("two-tier/client", "ls /tmp/late; echo e''nd", "end")
    assert "No such file" in said
    assert counter(saved, "two-tier/client") > 0


@pytest.mark.alone
def test_thirty_forks_at_once_answer_with_their_own_parameter(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.image()
    template = tmp_path / "two-tier.yaml"
    command = (
        '    on_fork: [[sh, -c, "echo $LABD_SEAT > /tmp/seat"]]\n'  # of the last node, the client
    )
    template.write_text(Path(TWO_TIER).read_text() + command)
    daemon.lab("up", str(template))
    daemon.lab("checkpoint", "save", "two-tier", "c", "--stop")
    labs = {f"f-{seat}": str(seat) for seat in range(1, 31)}
    with daemon.client() as client:
        fork = client.checkpoints.fork
        begun = [fork("c", lab, settings={"seat": seat})[0]["id"] for lab, seat in labs.items()]
        for operation in begun:
            client.check_operation(client.wait_operation(operation))
        states = {lab["name"]: lab["state"] for lab in client.labs() if lab["name"] in labs}
    assert states == dict.fromkeys(labs, "running")

    def ask(lab: str) -> str:
        return daemon.lab("exec", "-n", f"{lab}/client", "cat", "/tmp/seat")

    with ThreadPoolExecutor(4) as pool:
        said = dict(zip(labs, pool.map(ask, labs), strict=True))
    assert said == {lab: f"{seat}\n" for lab, seat in labs.items()}
    daemon.lab("destroy", "--force", *labs)


DISKS = """name: disks
chapters: [first, second]
nodes:
  a:
    image: tiny
    memory: 128 MiB
    disks: {data: {size: 64 MiB}}
    on_fork: [[sh, -c, "echo $LABD_LAB $LABD_STUDENT > /tmp/who"]]
"""


def disk_says(daemon: Daemon, node: str, block: int) -> str:
    """Return the first letters of a block of a MiB, read from the disk itself."""
    said = daemon.console(
        node,
        f"echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M skip={block} count=1 2>/dev/null"
        " | head -c 3; echo; echo e''nd",
        "end",
    )
    return said.split("end")[0]


def write_disk(daemon: Daemon, node: str, block: int, text: str) -> None:
    daemon.console(
        node,
        f"yes {text} | head -c 1048576 | dd of=/dev/vda bs=1M seek={block} conv=notrunc,fsync "
        "2>/dev/null; sync; echo o''k",
        "ok",
    )


def test_disks_chapters_and_parameters(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image()
    template = tmp_path / "disks.yaml"
    template.write_text(DISKS)
    daemon.lab("up", str(template))
    assert "chapter next" in daemon.lab("chapter", "again", "disks", expect=1)
    assert "no checkpoint first" in daemon.lab("chapter", "next", "disks", expect=4)
    write_disk(daemon, "disks/a", 1, "one")
    daemon.lab("checkpoint", "save", "disks", "first")
    write_disk(daemon, "disks/a", 2, "two")
    assert "one" in disk_says(daemon, "disks/a", 1), "the source goes on, on a new top"
    daemon.lab("checkpoint", "save", "disks", "second")
    write_disk(daemon, "disks/a", 1, "new")

    daemon.lab("fork", "first", "f", "--set", "student=ann")
    daemon.lab("up", str(template), "--name", "s", "--from", "second")
    assert "f ann" in daemon.console("f/a", "cat /tmp/who; echo e''nd", "end")
    assert "one" in disk_says(daemon, "f/a", 1)
    assert "two" not in disk_says(daemon, "f/a", 2), "written after it was saved"
    assert "one" in disk_says(daemon, "s/a", 1)
    assert "two" in disk_says(daemon, "s/a", 2)
    write_disk(daemon, "f/a", 3, "mine")
    assert "min" in disk_says(daemon, "f/a", 3)
    assert "min" not in disk_says(daemon, "s/a", 3)
    assert "new" in disk_says(daemon, "disks/a", 1)

    # A fork boots from its own disks, and goes back to where it was started.
    daemon.lab("down", "f", "--force")
    daemon.lab("start", "f")
    assert "min" in disk_says(daemon, "f/a", 3)
    assert "one" in disk_says(daemon, "f/a", 1)
    daemon.lab("reset", "f/a")
    assert "min" not in disk_says(daemon, "f/a", 3)
    assert "one" in disk_says(daemon, "f/a", 1)

    # So does the source, whose disks have grown twice.
    daemon.lab("down", "disks", "--force")
    daemon.lab("start", "disks")
    assert "new" in disk_says(daemon, "disks/a", 1)
    assert "two" in disk_says(daemon, "disks/a", 2)
    daemon.lab("chapter", "next", "disks")
    assert "one" in disk_says(daemon, "disks/a", 1)
    assert "two" not in disk_says(daemon, "disks/a", 2)
    daemon.lab("chapter", "next", "disks")
    assert "two" in disk_says(daemon, "disks/a", 2)
    assert "last chapter" in daemon.lab("chapter", "next", "disks", expect=1)

    # A layer is missing, another one is damaged.
    layers = daemon.root / "lib/checkpoints/.layers"
    daemon.lab("destroy", "f", "s", "--force")
    for layer in layers.iterdir():
        layer.chmod(0o600)
        with layer.open("r+b") as file:
            file.seek(200_000)
            file.write(b"changed")
    assert "is not what was saved" in daemon.lab("fork", "first", "x", expect=1)
    for layer in layers.iterdir():
        layer.unlink()
    assert "cannot be read (No such file" in daemon.lab("fork", "second", "x", expect=1)
    daemon.lab("destroy", "disks", "--force")
    template.write_text(DISKS.replace("128 MiB", "160 MiB"))
    said = daemon.lab("up", str(template), "--from", "first", expect=1)
    assert "cannot be used" in said


def test_a_checkpoint_goes_to_another_host(
    saved: Daemon, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    path = tmp_path / "moved.tar"
    saved.lab("checkpoint", "export", "c", str(path))
    other = make_daemon()
    said = other.lab("checkpoint", "import", str(path))
    assert "checkpoint moved is there" in said
    assert "there is no image" in other.lab("fork", "moved", "x", expect=2)
    other.image()
    other.lab("fork", "moved", "x")
    assert counter(other, "x/client") > 0
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in other.lab("checkpoint", "import", str(path), "--name", "bad", expect=2)
    other.lab("checkpoint", "show", "bad", expect=4)
    assert "a checkpoint moved already" in other.lab("checkpoint", "import", str(path), expect=1)


def test_no_copy_can_write_what_others_share(saved: Daemon) -> None:
    saved.lab("fork", "c", "copy")
    node = saved.nodes("copy")["client"]
    pid, uid = int(node["pid"]), int(node["uid"])
    maps = Path(f"/proc/{pid}/maps").read_text()
    shared = [line for line in maps.splitlines() if "labd-ram-" in line]
    assert shared
    assert all(line.split()[1].endswith("p") for line in shared), "mapped privately"
    numbers = [
        int(entry)
        for entry in os.listdir(f"/proc/{pid}/fd")
        if "labd-ram-" in os.readlink(f"/proc/{pid}/fd/{entry}")
    ]
    assert numbers
    checkpoints = saved.root / "lib" / "checkpoints"
    # A process of its own, and no copy of this one: an error in it must not go on with the tests.
    done = subprocess.run(
        [sys.executable, "-c", _ATTACK, f"/proc/{pid}/fd/{numbers[0]}", checkpoints],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    assert (done.returncode, done.stdout) == (0, "refused refused refused refused\n"), done.stderr
    assert set(saved.states("copy").values()) == {"ready"}


# Tries to change the shared memory, and to see the files behind it.
_ATTACK = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
def attempt(work, *args):
    try:
        work(*args)
    except OSError:
        return "refused"
    return "done"
print(
    attempt(os.pwrite, fd, b"x", 0),
    attempt(os.ftruncate, fd, 0),
    attempt(os.ftruncate, fd, 1 << 30),
    attempt(os.listdir, sys.argv[2]),
)
"""


def test_a_daemon_that_dies_while_it_saves_harms_nobody(saved: Daemon) -> None:
    for delay in (0.02, 0.1, 0.25, 0.5, 0.9):
        saved.lab("checkpoint", "save", "two-tier", "again", "--no-wait")
        time.sleep(delay)
        saved.kill()
        saved.start()
        saved.lab("wait", "two-tier", "--for", "idle")
        assert set(saved.states("two-tier").values()) == {"ready"}, delay
        before = counter(saved, "two-tier/client")
        until(lambda n=before: counter(saved, "two-tier/client") > n, "it runs on")  # type: ignore[misc]
        names = [c["name"] for c in saved.json("checkpoint", "ls")["checkpoints"]]
        if "again" in names:
            saved.lab("checkpoint", "rm", "again")
        assert os.listdir(saved.root / "lib/checkpoints/.partial") == []


def test_a_daemon_that_dies_while_it_forks_finishes(saved: Daemon) -> None:
    for index, delay in enumerate((0.03, 0.1, 0.2, 0.4)):
        name = f"copy-{index}"
        saved.lab("fork", "c", name, "--no-wait")
        time.sleep(delay)
        saved.kill()
        saved.start()
        saved.lab("wait", name, "--for", "idle")
        assert set(saved.states(name).values()) == {"ready"}, delay
        assert counter(saved, f"{name}/client") > 0
        saved.lab("destroy", name, "--force")
    assert set(saved.states("two-tier").values()) == {"ready"}


def test_a_qemu_that_dies_while_it_is_saved(saved: Daemon) -> None:
    pids = saved.pids("two-tier")
    os.kill(pids["server"], signal.SIGSTOP)
    saved.lab("checkpoint", "save", "two-tier", "late", "--no-wait")
    time.sleep(0.3)
    end(pids["server"])
    saved.lab("wait", "two-tier", "--for", "idle")
    states = saved.states("two-tier")
    assert states["client"] == "ready"
    assert states["router"] == "ready"
    assert states["server"] == "crashed"
    assert [c["name"] for c in saved.json("checkpoint", "ls")["checkpoints"]] == ["c"]
    said = saved.lab("checkpoint", "save", "two-tier", "late", expect=1)
    assert "cannot save two-tier/server: it is crashed" in said


def test_bad_requests_change_nothing(saved: Daemon) -> None:
    seq = saved.changes()[-1]["seq"]
    for words, status, text in (
        (("checkpoint", "save", "two-tier", "c"), 1, "there is a checkpoint c already"),
        (("checkpoint", "save", "two-tier", "C!"), 2, "name"),
        (("checkpoint", "save", "nope", "x"), 4, "there is no lab nope"),
        (("fork", "d", "x"), 4, "there is no checkpoint d"),
        (("fork", "c", "two-tier"), 1, "there is a lab two-tier already"),
        (("fork", "c", "Bad"), 2, "name"),
        (("fork", "c", "x", "--count", "0"), 2, "--count"),
        (("fork", "c", "x", "--set", "1a=b"), 2, "cannot be a name in a guest's environment"),
        (("checkpoint", "rm", "d"), 4, "there is no checkpoint d"),
        (("checkpoint", "show", "d"), 4, "there is no checkpoint d"),
        (("checkpoint", "restore", "two-tier", "d"), 4, "there is no checkpoint d"),
    ):
        assert text in saved.lab(*words, expect=status), words
    assert saved.changes()[-1]["seq"] == seq


def test_a_damaged_checkpoint_is_refused(saved: Daemon) -> None:
    key = saved.json("checkpoint", "show", "c")["key"]
    folder = saved.root / "lib/checkpoints" / key
    state = folder / "client.state"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.chmod(0o600)
    state.write_bytes(data)
    said = saved.lab("fork", "c", "x", expect=1)
    assert "client.state is not what was saved" in said
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    saved.lab("fork", "c", "x")
    saved.lab("destroy", "x", "--force")

    saved.kill()  # the next daemon has nothing in memory
    ram = folder / "server.ram"
    ram.chmod(0o600)
    with ram.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")
    saved.start()
    assert "server.ram is not what was saved" in saved.lab("fork", "c", "x", expect=1)
    saved.lab("status", "x", expect=4)
    ram.unlink()
    assert "cannot read server.ram" in saved.lab("fork", "c", "x", expect=1)
    assert saved.lab("checkpoint", "export", "c", "/dev/null", expect=1) == (
        "lab: checkpoint c is damaged: server.ram: No such file or directory; remove the "
        "checkpoint and save it again\n"
    )
    assert set(saved.states("two-tier").values()) == {"ready"}


@pytest.mark.parametrize("kind", ["machine: microvm", "display: vnc"])
def test_other_machines_are_forked_too(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    daemon.image()
    template = tmp_path / "one.yaml"
    template.write_text(
        f"name: one\nnetworks: {{lan: {{}}}}\nnodes:\n  n: {{image: tiny, memory: 128 MiB, {kind}, "
        "nics: {eth0: {network: lan, address: 10.3.0.1/24}}}\n"
    )
    daemon.lab("up", str(template))
    daemon.console("one/n", "echo mine > /tmp/me; echo o''k", "ok")
    daemon.lab("checkpoint", "save", "one", "c")
    daemon.lab("fork", "c", "f")
    assert "mine" in daemon.console("f/n", "cat /tmp/me; echo e''nd", "end")
