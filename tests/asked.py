"""What the environment asks of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def nemesis_asked() -> tuple[int, float]:
    """Return the seed of the nemesis, and its minutes."""
    return int(os.environ.get("NEMESIS_SEED", "7")), float(os.environ.get("NEMESIS_MINUTES", "5"))


def stops_asked() -> tuple[str, int]:
    """Return the seed of the places at which daemons are stopped, and how many of each request.

    The seed is the commit that is tested, so that each change tries places of its own, and every
    run of it the same ones.
    """
    return faults_seed(), int(os.environ.get("FAULTS_STOPS", "2"))


def deaths_asked() -> tuple[str, int]:
    """Return the seed of the places at which daemons die, and how many of each request."""
    return faults_seed(), int(os.environ.get("FAULTS_DEATHS", "8"))


def faults_seed() -> str:
    """Return `FAULTS_SEED`, or else the commit that is tested."""
    return os.environ.get("FAULTS_SEED") or _commit()


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"  # the source alone, without its history
