"""What the head of each run of the tests tells."""

from __future__ import annotations

from tests.asked import nemesis_asked


def pytest_report_header() -> str:
    seed, minutes = nemesis_asked()
    return f"nemesis: seed {seed}, {minutes:g} minutes (NEMESIS_SEED, NEMESIS_MINUTES)"
