"""What the environment asks of the tests."""

from __future__ import annotations

import os


def nemesis_asked() -> tuple[int, float]:
    """Return the seed of the nemesis, and its minutes."""
    return int(os.environ.get("NEMESIS_SEED", "7")), float(os.environ.get("NEMESIS_MINUTES", "5"))
