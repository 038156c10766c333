"""Programs that a test runs beside itself: none outlives its block, none is awaited for ever."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(
    argv: Sequence[Any], seconds: float = 120.0, **how: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Run a program for the time of a block, which may read what it says without a deadline.

    A plain `with Popen(...)` waits for the program's end, also when an assertion has failed inside:
    for ever, when it is one that stays.

    Args:
        argv: As for `subprocess.Popen`, which gets `how`, too.
        seconds: After which it is killed: a read then meets its end instead of waiting on.

    Raises:
        AssertionError: The block did not end within `seconds`.
    """
    late = threading.Event()
    with subprocess.Popen(argv, **how) as child:

        def expire() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield child
        finally:
            timer.cancel()
            child.kill()
            if late.is_set():
                words = " ".join(map(str, argv))
                raise AssertionError(f"`{words}` was still waited for after {seconds:g} s")
