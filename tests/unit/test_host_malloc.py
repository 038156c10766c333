"""One arena of memory for all threads, and a collector that looks at what is new only."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Eight threads at one time, each with memory of its own. malloc_stats(3) tells of each arena.
_PROGRAM = """
import ctypes, sys, threading
from labd.host.tuning import use_one_arena
if sys.argv[1] == "one":
    assert use_one_arena()
together = threading.Barrier(8)
def work():
    together.wait()
    kept = [bytes(600 + n) for n in range(2000)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.parametrize("how", ["one", "many"])
def test_threads_share_one_arena(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert (done.stderr.count("Arena ") == 1) is (how == "one"), done.stderr


_FREEZING = """
import gc, weakref
import labd.daemon
from labd.host.tuning import keep_what_is_there
keep_what_is_there()
assert gc.get_freeze_count() > 50_000, gc.get_freeze_count()
assert len(gc.get_objects()) < 1_000, len(gc.get_objects())
class Ring:
    pass
ring = Ring()
ring.itself, gone = ring, weakref.ref(ring)
del ring
gc.collect()
assert gone() is None
"""


def test_a_collection_looks_at_nothing_of_the_start() -> None:
    subprocess.run([sys.executable, "-c", _FREEZING], check=True)
