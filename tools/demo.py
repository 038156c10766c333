"""`make demo`: labd's main job on a real topology, watched step by step.

Every step is observed from outside labd where that is possible: the kernel's process table, the
guests' own consoles, the list of namespaces. The exit status is 0 only if all of it was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TEMPLATE = "lab-templates/two-tier.yaml"
LAB = "two-tier"
NODES = ("client", "router", "server")

Json = dict[str, Any]


class Failed(Exception):
    """Something was not observed."""


class Screen:
    """Prints steps, commands and the event stream without mixing their lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._dim, self._off = ("\033[1m", "\033[2m", "\033[0m") if colour else [""] * 3
        self._step = 0
        self._began = time.monotonic()

    def line(self, text: str = "") -> None:
        """Print a line."""
        with self._lock:
            print(text, flush=True)

    def step(self, text: str) -> None:
        """Begin a step."""
        self._step += 1
        at = time.monotonic() - self._began
        self.line(
            f"\n{self._bold}[{self._step}] {text}{self._off}  {self._dim}({at:.1f} s){self._off}"
        )

    def command(self, text: str) -> None:
        """Show what is typed."""
        self.line(f"{self._bold}    $ {text}{self._off}")

    def event(self, text: str) -> None:
        """Show an event."""
        self.line(f"{self._dim}    event | {text}{self._off}")

    def seen(self, text: str) -> None:
        """Say what was observed."""
        self.line(f"    ok: {text}")


class Demo:
    """One run of labd on a scratch root."""

    def __init__(self, root: Path, screen: Screen) -> None:
        self.root = root
        self.screen = screen
        self.log = root / "demo.log"
        self.daemon: subprocess.Popen[bytes] | None = None

    # running things

    def lab(self, *args: str) -> None:
        """Run `lab` as a person would, and show what it prints as it comes."""
        self.screen.command("lab " + " ".join(args))
        child = subprocess.Popen(
            [BIN / "lab", "--root", self.root, *args],
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            self.screen.line(f"      {line.rstrip()}")
        if child.wait() != 0:
            raise Failed(f"`lab {' '.join(args)}` ended with {child.returncode}")

    def quiet(self, *args: str) -> str:
        """Run `lab` behind the scenes and return its output."""
        done = subprocess.run(
            [BIN / "lab", "--root", self.root, *args],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            words = " ".join(args)
            raise Failed(f"`lab {words}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def ask(self, *args: str) -> Json:
        """Return the JSON that a `lab` command prints."""
        found = json.loads(self.quiet("--json", *args))
        if not isinstance(found, dict):
            raise Failed(f"`lab --json {' '.join(args)}` printed no object")
        return found

    def serve(self) -> None:
        """Start the daemon; it is ready when it answers."""
        self.screen.command(f"labd serve --root {self.root}")
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [BIN / "labd", "serve", "--root", self.root],
                cwd=HERE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        daemon = self.daemon
        self.until(lambda: self._answers(daemon), "the daemon answers", 30)

    def _answers(self, daemon: subprocess.Popen[bytes]) -> bool:
        if daemon.poll() is not None:
            raise Failed(f"labd ended with {daemon.returncode}; see {self.log}")
        # Another one on this root would answer too, while this one is being refused.
        return self.serving() == daemon.pid

    def serving(self) -> int | None:
        """Return the pid of the daemon that answers on the root, None where none does."""
        with suppress(Failed):
            return int(self.ask("version")["daemon"]["pid"])
        return None

    def end_kept(self) -> None:
        """Stop the daemon that `make demo KEEP=1` has left on this root."""
        pid = self.serving()
        if pid is None:
            return
        self.screen.command(f"kill {pid}   (the labd of a demo that was kept)")
        os.kill(pid, signal.SIGTERM)
        self.until(lambda: not alive(pid), "it has ended; what it ran goes over to the next", 30)

    def stop(self) -> None:
        """Stop the daemon."""
        if self.daemon is None or self.daemon.poll() is not None:
            return
        self.daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.daemon.wait(20)
            return
        self.daemon.kill()
        self.daemon.wait()

    def until(self, seen: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something is seen."""
        end = time.monotonic() + seconds
        while not seen():
            if time.monotonic() > end:
                raise Failed(f"not seen within {seconds:g} s: {what}")
            time.sleep(0.1)
        self.screen.seen(what)

    # looking at things

    def nodes(self) -> dict[str, Json]:
        """Return the nodes of the lab by name."""
        return {node["name"]: node for node in self.ask("status", LAB)["nodes"]}

    def pids(self) -> dict[str, int]:
        """Return the QEMU process of each node."""
        return {name: int(node["pid"] or 0) for name, node in self.nodes().items()}

    def console(self, node: str, command: str, wanted: str, seconds: float = 30) -> str:
        """Type a command into a node's serial console until `wanted` comes back."""
        self.screen.command(f"lab console {LAB}/{node}   (typing: {command})")
        child = subprocess.Popen(
            [BIN / "lab", "--root", self.root, "console", f"{LAB}/{node}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        said = bytearray()
        out = child.stdout

        def read() -> None:
            while chunk := os.read(out.fileno(), 4096):
                said.extend(chunk)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            child.stdin.write(f"\n{command}\n".encode())
            child.stdin.flush()
            end = time.monotonic() + seconds
            while wanted not in clean(said):
                if time.monotonic() > end:
                    raise Failed(f"{node} did not say {wanted!r}; it said: {bytes(said[-400:])!r}")
                time.sleep(0.1)
        finally:
            child.terminate()
            child.wait()
            reader.join()
        text = clean(said)
        for line in text[text.find(command) :].splitlines()[:8]:
            self.screen.line(f"      {line}")
        return text

    @contextmanager
    def events(self) -> Iterator[None]:
        """Show the event stream while the block runs."""
        child = subprocess.Popen(
            [BIN / "lab", "--root", self.root, "events", "--follow"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        out = child.stdout

        def show() -> None:
            for line in out:
                self.screen.event(line.rstrip())

        reader = threading.Thread(target=show, daemon=True)
        reader.start()
        time.sleep(0.4)  # until it listens: what comes before would be shown by --since
        try:
            yield
            time.sleep(0.4)
        finally:
            child.terminate()
            child.wait()
            reader.join()


def clean(said: bytes | bytearray) -> str:
    """Return what a console said without line discipline and cursor questions."""
    return bytes(said).decode(errors="replace").replace("\r", "").replace("\x1b[6n", "")


def alive(pid: int) -> bool:
    """Tell whether a process lives (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def left_over(root: Path, host: str) -> list[str]:
    """Return what the kernel and the disk still have of labs of this root."""
    found = []
    marker = f"@{host}.".encode()  # in -name of each QEMU of this root
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if marker in (entry / "cmdline").read_bytes():
                    found.append(f"process {entry.name}")
    spaces = Path("/run/netns")
    if spaces.is_dir():
        found += [
            f"namespace {p.name}" for p in spaces.iterdir() if p.name.startswith(f"labd-{host}-")
        ]
    for folder in (root / "lib/nodes", root / "run/n"):
        if folder.is_dir():
            found += [f"file {path}" for path in folder.iterdir()]
    return found


def show(demo: Demo, *, keep: bool) -> None:
    """Do and see everything."""
    screen = demo.screen
    screen.step("Start the daemon on a scratch root, with a broker of its own")
    demo.end_kept()
    demo.serve()
    host = str(demo.ask("version")["daemon"]["host_id"])
    with suppress(Failed):
        demo.quiet("destroy", LAB, "--force")

    screen.step("Build the `tiny` image from Debian's packages (cached after the first time)")
    if "tiny" not in demo.quiet("image", "ls"):
        demo.lab("image", "build", "tiny")
    demo.lab("image", "ls")

    screen.step("Enable the watchdog plugin")
    demo.lab("plugin", "enable", "watchdog")

    screen.step("Bring up client - router - server, and watch the events")
    with demo.events():
        demo.lab("up", TEMPLATE)
    demo.lab("status", LAB)
    states = {name: node["state"] for name, node in demo.nodes().items()}
    if states != dict.fromkeys(NODES, "ready"):
        raise Failed(f"not every node is ready: {states}")
    screen.seen("every guest said that it is ready")

    screen.step("From client to server, through router, over two networks")
    demo.console("client", "ping -c 3 server", "3 packets received")
    demo.console("client", "traceroute -n -q 1 -w 2 server", " 2  10.10.2.10")
    screen.seen("client reaches server, and the first hop is router")

    screen.step("Kill one QEMU; the watchdog plugin brings it back")
    victim = demo.pids()["server"]
    with demo.events():
        screen.command(f"kill -9 {victim}   (the QEMU of server)")
        os.kill(victim, signal.SIGKILL)
        demo.until(
            lambda: demo.nodes()["server"]["state"] == "ready" and demo.pids()["server"] != victim,
            "server crashed, and is ready again in a new process",
            90,
        )
    demo.console("client", "ping -c 2 server", "2 packets received")

    screen.step("Kill the daemon and start it again; no guest notices")
    before = demo.pids()
    demo.console(
        "client", "sh -c 'echo $$ > /tmp/mark; cat /tmp/mark; echo mark set'", "mark set\n"
    )
    assert demo.daemon is not None
    screen.command(f"kill -9 {demo.daemon.pid}   (labd)")
    demo.daemon.kill()
    demo.daemon.wait()
    if demo.serving() is not None:
        raise Failed("a daemon answers, and none should")
    if not all(alive(pid) for pid in before.values()):
        raise Failed("a guest died with the daemon")
    screen.seen(f"the guests live without it: {before}")
    demo.serve()
    if demo.pids() != before:
        raise Failed(f"other processes than before: {demo.pids()}")
    screen.seen("the new daemon has taken over the same processes")
    demo.console("client", "test -s /tmp/mark && echo still $((1+1)) here", "still 2 here")
    demo.lab("ls")

    if keep:
        screen.step("Kept: the lab runs, and so does the daemon")
        next_steps(demo, kept=True)
        return
    screen.step("Destroy the lab; nothing is left")
    with demo.events():
        demo.lab("destroy", LAB)
    rest = left_over(demo.root, host) + [f"process {p}" for p in before.values() if alive(p)]
    if rest:
        raise Failed(f"left over: {', '.join(rest)}")
    screen.seen("no process, no namespace, no socket, no file")
    next_steps(demo, kept=False)


def next_steps(demo: Demo, *, kept: bool) -> None:
    """Tell what to type next."""
    lab = f"{os.path.relpath(BIN)}/lab --root {demo.root}"
    serve = f"{os.path.relpath(BIN)}/labd serve --root {demo.root}"
    lines = ["", "Everything was observed. What to type next:", ""]
    if kept:
        lines += [
            f"  {lab} console {LAB}/client     # a shell; Ctrl-] leaves it",
            f"  {lab} events --follow",
            f"  {lab} destroy {LAB}",
            f"  kill {demo.daemon.pid if demo.daemon else ''}                # stop the daemon",
        ]
    else:
        lines += [
            f"  {serve} &",
            f"  {lab} up lab-templates/lan-party.yaml --set players=4",
            f"  {lab} console lan-party/player-1     # a shell; Ctrl-] leaves it",
            f"  {lab} destroy lan-party",
        ]
    for line in [*lines, "", "docs/tutorial.md goes on from here."]:
        demo.screen.line(line)


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the lab running at the end")
    parser.add_argument("--root", type=Path, default=HERE / ".scratch" / "demo")
    args = parser.parse_args()
    root: Path = args.root.absolute()
    if shutil.which("qemu-system-x86_64") is None:
        fail("qemu-system-x86_64 is missing; run `make setup`")
    if os.geteuid() != 0:
        fail("labd makes namespaces and taps: run it as root, as in `sudo make demo`")
    root.mkdir(parents=True, exist_ok=True)
    demo = Demo(root, Screen())
    with ExitStack() as undo:
        undo.callback(demo.stop)
        try:
            show(demo, keep=args.keep)
        except (Failed, subprocess.TimeoutExpired) as error:
            demo.screen.line(f"\nFAILED: {error}\nThe daemon's log is {demo.log}")
            with suppress(Failed):
                demo.quiet("destroy", LAB, "--force")
            return 1
        if args.keep:
            undo.pop_all()
    return 0


def fail(text: str) -> NoReturn:
    """End with one line."""
    print(f"demo: {text}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
