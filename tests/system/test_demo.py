"""`make demo` sees what it says that it sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.system.harness import Daemon
from tools.demo import Demo, Failed, Screen


def test_a_demo_takes_the_place_of_the_daemon_that_one_before_has_left(
    make_daemon: Callable[..., Daemon], capfd: pytest.CaptureFixture[str]
) -> None:
    kept = make_daemon()
    assert kept.process is not None
    pid = kept.process.pid
    demo = Demo(kept.root, Screen())
    with pytest.raises(Failed, match="labd ended with 1"):
        demo.serve()  # refused: another one answers on this root, and does not count
    demo.end_kept()
    assert kept.process.wait(20) == 0
    assert f"kill {pid} " in capfd.readouterr().out
    assert demo.serving() is None
