"""What the head of each run of the tests tells, and the order of the tests."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests import durations
from tests.asked import faults_seed, nemesis_asked

_TOOK: defaultdict[str, float] = defaultdict(
    float
)  # seconds of each test of this run, with its fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-durations",
        action="store_true",
        help="write how long tests take to tests/durations.json, by which they are ordered",
    )


def pytest_report_header() -> list[str]:
    seed, minutes = nemesis_asked()
    return [
        f"nemesis: seed {seed}, {minutes:g} minutes (NEMESIS_SEED, NEMESIS_MINUTES)",
        f"faults: seed {faults_seed()} (FAULTS_SEED)",
    ]


# After xdist has written the names of groups into the ids, and after `-k` and `-m`.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first, so that no worker begins with one when the others are done."""
    order = durations.longest_first([(item.nodeid, _group(item)) for item in items])
    items[:] = [items[at] for at in order]


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark is not None else ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _TOOK[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = hasattr(session.config, "workerinput")
    if session.config.getoption("--store-durations") and not worker:
        durations.store(_TOOK)
