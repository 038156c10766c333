"""The `lab` command against the real API, over the real engine on fakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labd.cli.main import run
from tests.fakes.templates import WEB
from tests.unit.api_server import Server

LAB = str(Path(sys.executable).parent / "lab")


class Cli:
    """Runs `lab` in this process."""

    def __init__(self, server: Server, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        self.server, self.capfd, self.home = server, capfd, home
        self.web = str(home / "web.yaml")
        Path(self.web).write_text(WEB)

    def __call__(self, *args: str, expect: int = 0) -> str:
        """Return stdout, or stderr when the status should not be 0."""
        out, err = self.both(*args, expect=expect)
        return err if expect else out

    def both(self, *args: str, expect: int = 0) -> tuple[str, str]:
        self.capfd.readouterr()
        status = run(["--root", str(self.server.root), *args])
        said = self.capfd.readouterr()
        assert status == expect, (args, status, said)
        return said.out, said.err
