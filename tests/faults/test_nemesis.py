"""Some minutes of everything at once; `bench/nemesis.py` says what is proved.

The head of the run tells the seed. It is the same for every change, which so is not refused for a
fault that it did not make; NEMESIS_SEED gives another one, and NEMESIS_MINUTES says for how long.
`make soak` has the long runs, with a seed of the day.
"""

from __future__ import annotations

import pytest

from bench import nemesis
from tests.asked import nemesis_asked

pytestmark = pytest.mark.usefixtures("built_tiny")
_FINALE = 900  # seconds for what comes after the last minute


@pytest.mark.timeout(nemesis_asked()[1] * 60 + _FINALE)
def test_nothing_is_lost_and_nothing_leaks_whatever_happens() -> None:
    seed, minutes = nemesis_asked()
    report = nemesis.run(seed, minutes)
    print(report.text())  # noqa: T201
    assert not report.problems, report.text()
    # It was no idle talk, however busy the host is.
    assert report.operations > minutes
    assert report.events > 10 * minutes
    assert report.faults.total() > minutes
