"""A QEMU is killed at each step of a save, a fork, a restore and a class; the daemon lives.

The daemon stands still at a step (`hold`), one of the machines is killed, and the daemon goes on.
Whatever becomes of the request: what was not killed runs on, nothing half made is left, and the
next request of the kind can succeed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

import pytest

from labd.model.errors import LabdError
from tests.faults import checkpoint_scenes
from tests.faults.scene import LAB, Outcome, Scene
from tests.faults.test_failpoints import Faulty
from tests.system.harness import Daemon, end, until

pytestmark = pytest.mark.usefixtures("built_tiny")

# Scene -> at which places; empty: all that it comes by. Those of a class are those of a fork.
NAMES = {
    "checkpoint": (),
    "fork": (),
    "restore": (),
    "class": ("inventory.commit", "snapshots.launch", "nodes.resume"),
}


def outcomes() -> list[Outcome]:
    """Return every state of a lab of two nodes of which at most one has died."""
    dead: list[Outcome] = [
        {"": "degraded", "a": "crashed", "b": "ready"},
        {"": "degraded", "a": "ready", "b": "crashed"},
    ]
    return [{"": "running", "a": "ready", "b": "ready"}, *dead]


def steps(visits: list[str], only: Collection[str]) -> list[str]:
    """Return each place once: where it is first about to be passed, and where all is done."""
    chosen = [name for name in visits if not only or name.partition(":")[0] in only]
    return [*dict.fromkeys(name for name in chosen if name.endswith(":before")), visits[-1]]


def ask(faulty: Faulty, scene: Scene) -> threading.Thread:
    def work() -> None:
        with suppress(LabdError, AssertionError):  # that it may fail is what this is about
            faulty.ask(scene)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", NAMES)
def test_a_qemu_that_dies_at_any_step(make_daemon: Callable[..., Daemon], name: str) -> None:
    faulty = Faulty(make_daemon)
    scene = checkpoint_scenes.of_two(name)
    ends = {lab: [*outcomes(), *([{}] if lab != LAB else [])] for lab in scene.ends}
    if name == "restore":  # what it was is gone by then; the same request can be made again
        ends[LAB].append({"": "degraded", "a": "stopped", "b": "stopped"})
    scene = replace(scene, ends=ends)
    hold = faulty.daemon.root / "hold"
    places = steps(faulty.places(scene), NAMES[name])
    assert len(places) > 3
    for number, place in enumerate(places):
        with faulty.client() as client:
            scene.prepare(client)
            old = {node["name"]: node["pid"] or 0 for node in client.lab(LAB)["nodes"]}
        before = set(faulty.daemon.qemus())
        faulty.order(f"{place} = hold {hold}")
        asked = ask(faulty, scene)
        until(hold.exists, f"{place} is reached by {name}")
        there = sorted(faulty.daemon.qemus())
        victims = sorted(set(there) - before) or there
        victim = victims[number % 2 - 1] if victims else 0  # a restore is between two lives
        if victim:
            end(victim)
        faulty.order()
        hold.unlink()
        asked.join(180)
        assert not asked.is_alive(), place
        try:
            check(faulty, scene, victim, {} if name == "restore" else old)
        except AssertionError as error:
            raise AssertionError(f"{name}, a QEMU killed at {place}: {error}") from error
    with faulty.client() as client:
        scene.prepare(client)
    faulty.ask(scene)
    assert faulty.outcomes()[LAB] == outcomes()[0], "and it still works"
    faulty.clear()


def check(faulty: Faulty, scene: Scene, victim: int, old: dict[str, int]) -> None:
    """Assert that those that were not killed are as they were, and what always must hold."""
    until(faulty.idle, faulty.under_way, 300)
    until(lambda: not differences(faulty), lambda: str(differences(faulty)))
    faulty.check(scene)
    daemon = faulty.daemon
    assert list((daemon.root / "lib/checkpoints/.partial").glob("*")) == []
    with faulty.client() as client:
        nodes = {node["name"]: node for node in client.lab(LAB)["nodes"]}
    for name, pid in old.items():
        if pid != victim:
            assert nodes[name]["pid"] == pid, f"{name} was not the victim"
            assert nodes[name]["state"] == "ready"
            assert daemon.qmp(nodes[name]["key"], "query-status")["status"] == "running"


def differences(faulty: Faulty) -> list[object]:
    with faulty.client() as client:
        found: list[object] = list(client.differences())
    return found
