"""Run the commands of a page on a real labd, and compare what they print with what the page shows.

    python -m tools.run_page docs/tutorial.md            run it; write what was printed into it
    python -m tools.run_page --check docs/tutorial.md    run it; fail where it shows other things

Each block of shell commands runs as it stands, in one session of bash, in a folder that looks like
a checkout, with a home of its own. A block of text right behind it is what was printed. A comment
before a block says what is special about it:

    <!-- page: skip -->       it is not run
    <!-- page: varies -->     other hosts print other things (or fail, such as `lab doctor`)
    <!-- page: daemon -->     it goes on in the background; its log is shown until it is ready
    <!-- page: type A; B -->  a console: A and B are typed into it when it prompts, then Ctrl-]
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pexpect

ROOT: Final = Path(__file__).resolve().parents[1]
_BLOCK: Final = re.compile(
    r"(?:<!-- page: (?P<how>[^\n]*) -->\n)?```sh\n(?P<commands>.*?)```\n"
    r"(?:\n```text\n(?P<shown>.*?)```\n)?",
    re.DOTALL,
)
_PROMPT: Final = re.compile(r"\w+:~# $")
_PATIENCE: Final = 900.0  # seconds for a block: software emulation on a busy host
_OF_HOSTS: Final = {"varies", "daemon"}  # blocks whose output depends on the host
_NAMES: Final = (
    'python3 -c \'import json, sys; print(*(lab["name"] for lab in json.load(sys.stdin)["labs"]))\''
)
_FADING: Final = 12  # words of this length in hexadecimal are ids


class PageError(Exception):
    """A command of the page failed, or printed other things than the page shows."""


@dataclass(slots=True)
class Shell:
    """Runs blocks of one page, one after the other.

    Attributes:
        folder: Where the commands run.
        home: What `~` is.
    """

    folder: Path
    home: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def _state(self) -> Path:
        return self.home / ".page-state"

    def prepare(self) -> None:
        """Make the folder look like a checkout."""
        for name in ("lab-templates", ".venv"):
            (self.folder / name).symlink_to(ROOT / name)
        self._state.touch()

    def run(self, commands: str, how: str) -> str:
        """Run one block; return what it printed.

        Raises:
            PageError: It failed, or took too long.
        """
        if how == "daemon":
            return self._background(commands)
        if how.startswith("type "):
            return self._console(commands, how.removeprefix("type ").split("; "))
        done = subprocess.run(
            self._bash(commands),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        if done.returncode and how != "varies":
            raise PageError(f"status {done.returncode} of:\n{commands}\n{done.stdout}")
        return done.stdout

    def end(self) -> None:
        """Destroy the labs that a failure has left, and end the daemons."""
        destroy = f"for lab in $(lab --json ls | {_NAMES}); do lab destroy --force $lab; done"
        if any(daemon.poll() is None for daemon in self.daemons):
            subprocess.run(
                self._bash(destroy, last=True),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=False,
                timeout=_PATIENCE,
            )
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(60)

    @property
    def _environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}

    def _bash(self, commands: str, *, last: bool = False) -> list[str]:
        """Return a shell that goes on where the block before has ended."""
        keep = "" if last else f"\nexport -p >{self._state}"
        return ["bash", "-c", f". {self._state}\nset -e\n{commands}{keep}"]

    def _background(self, commands: str) -> str:
        log = self.home / f"log-{len(self.daemons)}"
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                self._bash(f"exec {commands.strip()}", last=True),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.daemons.append(daemon)
        until = time.monotonic() + 60
        while " ready: " not in log.read_text():
            if daemon.poll() is not None or time.monotonic() > until:
                raise PageError(f"not ready:\n{commands}\n{log.read_text()}")
            time.sleep(0.1)
        return log.read_text()

    def _console(self, commands: str, lines: list[str]) -> str:
        bash, *argv = self._bash(commands, last=True)
        child = pexpect.spawn(
            bash, argv, cwd=str(self.folder), env=self._environment, encoding="utf-8", timeout=60
        )
        shown = []
        try:
            child.send("\r")
            child.expect(r"\w+:~# ")
            prompt = str(child.after)
            for line in lines:
                child.send(f"{line}\r")
                child.expect_exact(prompt)
                shown.append(prompt + str(child.before))
            child.send("\x1d")
            child.expect(pexpect.EOF)
        except pexpect.ExceptionPexpect as error:
            raise PageError(f"the console of:\n{commands}\n{error}") from error
        finally:
            child.close(force=True)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "".join(shown)).replace("\r", "")


def essence(text: str) -> list[str]:
    """Return what has to be the same at each run: words without figures and ids, in any order."""
    lines = []
    for line in text.splitlines():
        plain = re.sub(rf"\b[0-9a-f]{{{_FADING},}}\b", "0", line)
        plain = re.sub(r"\b(kvm|tcg)\b", "accel", plain)
        plain = re.sub(r"\d[\d.,:TZ-]*( (ms|s|min|h)\b)?", "0", plain)
        lines.append(" ".join(re.sub(r"[─━]+", "", plain).split()))
    return sorted(line for line in lines if line)


def go_through(text: str, shell: Shell, *, check: bool) -> str:
    """Run all blocks of a page; return the page with what they printed.

    Raises:
        PageError: See `Shell.run`; or, to check, the page shows other things.
    """

    def run(found: re.Match[str]) -> str:
        how = found["how"] or ""
        if how == "skip":
            return found[0]
        printed = shell.run(found["commands"], how)
        printed = printed.replace(str(shell.home), "/root").rstrip() + "\n"
        if found["shown"] is None:
            return found[0]
        if check and how not in _OF_HOSTS and essence(printed) != essence(found["shown"]):
            raise PageError(
                f"{found['commands']}printed:\n{printed}and the page shows:\n{found['shown']}"
            )
        start = found.start("shown") - found.start()
        return found[0][:start] + printed + "```\n"

    return _BLOCK.sub(run, text)


def main() -> int:
    """Run the page that is named."""
    parser = argparse.ArgumentParser(prog="run_page")
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labd-page-") as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - machines' users pass through
        home, folder = Path(scratch, "root"), Path(scratch, "labd")
        home.mkdir()
        folder.mkdir()
        shell = Shell(folder, home)
        shell.prepare()
        try:
            page = go_through(given.page.read_text(encoding="utf-8"), shell, check=given.check)
        except PageError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            shell.end()
    if not given.check:
        given.page.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
