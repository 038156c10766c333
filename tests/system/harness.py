"""A whole labd on a scratch root, as a person would run it; and what the kernel says of it.

Nothing here believes labd: processes come from /proc, links from netlink, namespaces from
/run/netns, events from a subscriber of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from labd.client.client import Client
from labd.model.errors import DaemonUnreachable
from tests.system.forkserver import ForkedDaemon, fork_daemon
from tests.system.leftovers import STARTED, cgroups_of

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TEMPLATES = REPO / "lab-templates"
# Built guests are shared by all test runs of this checkout; each root links to it.
CACHE = REPO / ".cache"

_DIES_WITHIN = 60.0  # seconds after SIGKILL: the kernel has to take its memory and files away

Json = dict[str, Any]


class LabFailed(AssertionError):
    """A `lab` command ended with another status than was expected."""


class Daemon:
    """`labd serve` on a root of its own, and the `lab` command for it.

    Args:
        root: An empty folder.
        config: Text of labd.toml.
        namespace: Name of the network namespace that is the daemon's host; empty: this one.
        forked: It is a copy of a process that has read labd's code: see `tests.system.forkserver`.
    """

    def __init__(
        self, root: Path, config: str = "", *, namespace: str = "", forked: bool = False
    ) -> None:
        self.root = root
        # Not `ip netns exec`: namespaces that are mounted below its mounts are seen by nobody else.
        self.inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"] if namespace else []
        self.forked = forked and not namespace
        self.process: subprocess.Popen[bytes] | ForkedDaemon | None = None
        self.log = root / "daemon.log"
        self.host_id = ""
        self.environment: dict[str, str] = {}
        # A test that harms the host on purpose says so: `lab fsck` has to find it at the end.
        self.harmed = False
        # And one that makes labd fail by what nobody expects: a task of no other daemon may.
        self.faulty = False
        (root / "etc").mkdir(parents=True)
        if config:
            (root / "etc" / "labd.toml").write_text(config)
        CACHE.mkdir(exist_ok=True)
        (root / "cache").symlink_to(CACHE)

    # life

    def start(self, *args: str, seconds: float = 180) -> None:
        """Start the daemon and wait until it answers."""
        self.launch(*args)
        until(self._answers, f"labd answers (its log: {self.log})", seconds, every=0.02)

    def launch(self, *args: str) -> None:
        """Start the daemon and wait for nothing."""
        argv = ["serve", "--root", str(self.root), *args]
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            if self.forked:
                self.process = fork_daemon(argv, environment, log.fileno())
            else:
                self.process = subprocess.Popen(
                    [*self.inside, BIN / "labd", *argv],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=environment,
                )

    def refused(self) -> str:
        """Start another daemon on this root, which must refuse; return what it says."""
        done = subprocess.run(
            [BIN / "labd", "serve", "--root", self.root],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        return done.stderr

    def client(self) -> Client:
        """Return a client of the daemon, for what is not about the command line."""
        return Client(str(self.root / "run" / "api.sock"))

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"labd ended: {self.log.read_text()[-3000:]}")
        try:
            with self.client() as client:
                self.host_id = str(client.info()["host_id"])
                STARTED[self.host_id] = self.root
        except DaemonUnreachable:
            return False
        return True

    def kill(self) -> None:
        """End the daemon with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_DIES_WITHIN)

    def stop(self, seconds: float = 90) -> int:
        """Stop it in order; return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(seconds)

    # the command line

    def run(
        self, *args: str, timeout: float = 300, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `lab`; never raises for its exit status."""
        return subprocess.run(
            [BIN / "lab", "--root", self.root, *args],
            cwd=REPO,
            capture_output=True,
            text=True,
            input=text,
            timeout=timeout,
            check=False,
        )

    def lab(self, *args: str, expect: int = 0, timeout: float = 300) -> str:
        """Run `lab` and return what it printed on stdout, or on stderr when it should fail."""
        done = self.run(*args, timeout=timeout)
        if done.returncode != expect:
            raise LabFailed(
                f"`lab {' '.join(args)}` ended with {done.returncode}, not {expect}\n"
                f"{done.stdout}{done.stderr}\n--- labd:\n{self.log.read_text()[-4000:]}"
            )
        return done.stderr if expect else done.stdout

    def json(self, *args: str, expect: int = 0) -> Json:
        """Return the object that `lab --json` prints."""
        done = self.run("--json", *args)
        if done.returncode != expect:
            raise LabFailed(f"`lab {' '.join(args)}`: {done.stdout}{done.stderr}")
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def nodes(self, lab: str) -> dict[str, Json]:
        """Return the nodes of a lab by name, as `lab status` tells them."""
        return {node["name"]: node for node in self.json("status", lab)["nodes"]}

    def states(self, lab: str) -> dict[str, str]:
        """Return node name -> state."""
        return {name: node["state"] for name, node in self.nodes(lab).items()}

    def pids(self, lab: str) -> dict[str, int]:
        """Return node name -> pid of its QEMU."""
        return {name: int(node["pid"] or 0) for name, node in self.nodes(lab).items()}

    def events(self, after: int = 0) -> list[Json]:
        """Return all events after a seq by the replay endpoint."""
        lines = self.lab("--json", "events", "--since", str(after)).splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def changes(self, after: int = 0) -> list[Json]:
        """Return the events after a seq that tell of more than of a request."""
        return [e for e in self.events(after) if not e["type"].startswith("io.labd.audit.")]

    def image(self, recipe: str = "tiny") -> None:
        """Have the image of a recipe."""
        if recipe not in self.lab("image", "ls"):
            self.lab("image", "build", recipe, timeout=600)

    def console(self, node: str, command: str, wanted: str, seconds: float = 120) -> str:
        """Type a command on a serial console until a regular expression matches what comes back."""
        child = subprocess.Popen(
            [BIN / "lab", "--root", self.root, "console", node],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        out, said = child.stdout, bytearray()

        def read() -> None:
            while chunk := os.read(out.fileno(), 4096):
                said.extend(chunk)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()

        def text() -> str:
            return said.decode(errors="replace").replace("\r", "")

        # The echo of the command itself must not count: look behind a mark that is computed.
        mark = f"mark-{time.monotonic_ns()}"
        quoted = f"{mark[:5]}''{mark[5:]}"
        try:
            child.stdin.write(f"\necho {quoted}; {command}\n".encode())
            child.stdin.flush()
            until(
                lambda: re.search(wanted, text().partition(f"\n{mark}\n")[2]) is not None,
                lambda: f"{node} says {wanted!r} to {command!r}; it said {text()[-1500:]!r}",
                seconds,
            )
        finally:
            child.kill()
            child.wait(_DIES_WITHIN)
            reader.join(_DIES_WITHIN)
            child.stdin.close()
            child.stdout.close()
        return text().partition(f"\n{mark}\n")[2]

    # what the kernel says

    def qemus(self) -> list[int]:
        """Return the pids of all QEMU processes of this root, from /proc."""
        # Written by labd into -name; the files themselves are passed as descriptors.
        marker = f"@{self.host_id}.".encode()
        return [pid for pid in processes() if marker in cmdline(pid) and b"qemu" in cmdline(pid)]

    def servers(self) -> list[int]:
        """Return the pids of the dnsmasqs of this root's labs, from /proc."""
        mark = os.fsencode(f"--conf-file={self.root}/run/d/")
        return [p for p in processes() if mark in cmdline(p)]

    def namespaces(self) -> list[str]:
        """Return the names of the network namespaces of this root."""
        folder = Path("/run/netns")
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(name for name in names if name.startswith(f"labd-{self.host_id}-"))

    def leaks(self) -> list[str]:
        """Return everything of labs that is left on this host, besides what labs exist for."""
        found = [f"process {pid}: {cmdline(pid)[:200]!r}" for pid in self.qemus()]
        found += [f"namespace {name}" for name in self.namespaces()]
        found += [f"process {pid}: {cmdline(pid)[:200]!r}" for pid in self.servers()]
        for folder in ("lib/nodes", "lib/keys", "run/n", "run/d", "lib/images/.partial"):
            path = self.root / folder
            if path.is_dir():
                found += [f"file {entry}" for entry in path.iterdir()]
        rules = self.on_host("nft", "list", "tables")
        found += [line for line in rules.splitlines() if f"labd_{self.host_id}" in line]
        links = self.on_host("ip", "-o", "link")
        marks = (f"labd:{self.host_id}", f": v{self.host_id}")
        found += [line for line in links.splitlines() if any(mark in line for mark in marks)]
        return found

    def differences(self) -> list[str]:
        """Return what `lab fsck` says."""
        with self.client() as client:
            return [f"fsck: {item['kind']}: {item['text']}" for item in client.differences()]

    def qmp(self, key: str, command: str) -> Json:
        """Ask the QEMU of a node with this key by its monitor for people; labd is not asked."""
        found: Json = ask_qemu(self.root / "run/n" / key / "hmp.sock", command)["return"]
        return found

    def listeners(self) -> list[int]:
        """Return the ports at which the daemon itself listens, as the kernel tells them."""
        assert self.process is not None
        text = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        return [
            int(line.split()[3].rpartition(":")[2])
            for line in text.splitlines()
            if f"pid={self.process.pid}," in line
        ]

    def on_host(self, *argv: str) -> str:
        """Run a command where the daemon has its host; return what it says."""
        return subprocess.run(
            [*self.inside, *argv], capture_output=True, text=True, check=True
        ).stdout

    def outbox(self) -> list[tuple[str, Json]]:
        """Return type and data of each event that a stopped daemon's inventory has kept."""
        with closing(sqlite3.connect(self.root / "lib" / "labd.db")) as inventory:
            rows = inventory.execute("SELECT type, data FROM events ORDER BY seq").fetchall()
        return [(str(kind), json.loads(data)) for kind, data in rows]

    def leaks_after_stop(self) -> list[str]:
        """Return processes and sockets that outlive a stopped daemon without labs."""
        root = os.fsencode(f"{self.root}/")
        found = [f"process {p}: {cmdline(p)[:200]!r}" for p in processes() if root in cmdline(p)]
        sockets = self.on_host("cat", "/proc/net/unix").splitlines()
        found += [f"socket {line.split()[-1]}" for line in sockets if f"{self.root}/" in line]
        return found + cgroups_of(self.host_id)


def ask_qemu(monitor: Path, command: str, **arguments: object) -> Json:
    """Return what a QEMU answers at a monitor: a `return` or an `error`."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(30)
        channel.connect(str(monitor))
        with channel.makefile("rw") as lines:
            answer: Json = json.loads(lines.readline())
            assert "QMP" in answer
            for order in (
                {"execute": "qmp_capabilities"},
                {"execute": command, "arguments": arguments},
            ):
                lines.write(json.dumps(order) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
    return answer


def processes() -> list[int]:
    """Return the pids of all processes that are no zombies."""
    return [int(e) for e in os.listdir("/proc") if e.isdecimal() and not is_zombie(int(e))]


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and was not waited for (or is gone)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def is_alive(pid: int) -> bool:
    """Tell whether a process runs."""
    return not is_zombie(pid)


def cmdline(pid: int) -> bytes:
    """Return the argv of a process, NUL between; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def until(
    seen: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float = 90,
    every: float = 0.1,
) -> None:
    """Wait until something is seen; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            raise AssertionError(
                f"not seen within {seconds:g} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(every)


def end(pid: int) -> None:
    """End a process of the test's own daemon with SIGKILL."""
    os.kill(pid, signal.SIGKILL)
