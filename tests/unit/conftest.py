"""Fixtures of what is tested against the real API: `lab` runs `lab`, and `server` answers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.api_server import Server, api_server
from tests.unit.cli_runner import Cli


@pytest.fixture
def server() -> Iterator[Server]:
    with api_server() as running:
        yield running


@pytest.fixture
def lab(server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(server, capfd, tmp_path)
