"""Some minutes of everything at once; `bench/nemesis.py` says what is proved.

The seed is printed, and is another one for each commit and day; NEMESIS_SEED repeats one, and
NEMESIS_MINUTES says for how long. `make soak` has the long runs.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import zlib

import pytest

from bench import nemesis
from tests.system.harness import REPO

pytestmark = pytest.mark.usefixtures("built_tiny")


def chosen_seed() -> int:
    given = os.environ.get("NEMESIS_SEED")
    if given:
        return int(given)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout
    return zlib.crc32(f"{head.strip()} {dt.datetime.now(dt.UTC).date()}".encode())


def test_nothing_is_lost_and_nothing_leaks_whatever_happens() -> None:
    seed, minutes = chosen_seed(), float(os.environ.get("NEMESIS_MINUTES", "5"))
    print(f"nemesis, seed {seed}")  # noqa: T201 - for whoever reads what a failed run has said
    report = nemesis.run(seed, minutes)
    print(report.text())  # noqa: T201
    assert not report.problems, report.text()
    # It was no idle talk, however busy the host is.
    assert report.operations > minutes
    assert report.events > 10 * minutes
    assert report.faults.total() > minutes
