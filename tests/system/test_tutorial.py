"""The tutorial does what it says: all of its commands, on a real daemon."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.system.harness import REPO

pytestmark = pytest.mark.usefixtures("built_tiny")


def test_the_tutorial_prints_what_it_shows() -> None:
    argv = [sys.executable, "-m", "tools.run_page", "--check", "docs/tutorial.md"]
    done = subprocess.run(
        argv, cwd=REPO, stderr=subprocess.PIPE, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr
