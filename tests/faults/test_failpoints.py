"""The daemon is killed at every place where it changes the world, and killed again as it recovers.

For each request, the places that it comes by are found by a first run that only writes them down;
then the request is made once for each, with a kill at it. `SOAK=1` kills at every single visit,
otherwise at some places of each request, each at its first visit or its last.

And it is stopped in order (SIGTERM, as for an upgrade) at the same places, which cancels what is
under way there: with `SOAK=1` at every visit, otherwise at some places, too.

Places are drawn from the commit that is tested, so that each change tries others. `FAULTS_SEED`
draws others, `FAULTS_DEATHS` and `FAULTS_STOPS` say how many of each request.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TypeVar

import pytest

from bench.chaos.check import gaps
from bench.chaos.fold import fold
from bench.chaos.history import replay
from labd.client.client import Client
from labd.core.guard import COMMIT, LOOKS, all_ports, registry
from labd.host.failpoints import STEPS, VARIABLE
from labd.model.errors import DaemonUnreachable, WorldError
from tests.asked import deaths_asked, stops_asked
from tests.faults.scene import Outcome, Scene, settle
from tests.faults.scenes import SCENES, up
from tests.faults.stores import misfits
from tests.system.harness import Daemon, until

pytestmark = pytest.mark.usefixtures("built_tiny")

_STOPS_WITHIN = 15.0  # seconds after a request; a daemon that hangs is stopped with patience
T = TypeVar("T")
SOAK = bool(os.environ.get("SOAK"))
# Places that no scene comes by, and why.
UNREACHED = {
    "nodes.adopt": "only a recovery adopts: test_a_death_while_recovering",
    "nodes.kill_process": "only a recovery ends orphans: test_a_death_while_recovering",
    "images.download": "an import is an upload of the daemon itself, and `images.receive` is it",
    "images.discard": "removing an image is one call; tests/contract has its deaths",
    "images.sweep": "only a recovery sweeps",
    "uplinks.sweep": "only a recovery sweeps",
    "servers.sweep": "only a recovery sweeps",
    "storage.sweep": "only a recovery sweeps",
    "storage.grow": "nothing of labd grows a disk yet; tests/contract/test_storage.py has it",
    "checkpoints.sweep": "only a recovery sweeps: the scene checkpoint-stop dies there",
    "snapshots.abandon": "only a recovery, after a death in a save: the scene checkpoint",
    "checkpoints.copy_file": "of UEFI variables, which no boot sector has; tests/contract has it",
    "checkpoints.digest": "of UEFI variables, which no boot sector has; tests/contract has it",
    "devices.unplug_disk": "a guest has to let go of it; tests/contract has its deaths",
    "devices.unplug_nic": "a guest has to let go of it; tests/contract has its deaths",
}


# One worker has both tests of a scene, so that its places are looked for once.
EACH = [pytest.param(name, marks=pytest.mark.xdist_group(f"faults-{name}")) for name in SCENES]
_VISITS: dict[str, list[str]] = {}


class Faulty:
    """A daemon with failpoints, and what must hold after each of its deaths."""

    def __init__(self, make: Callable[..., Daemon]) -> None:
        self.daemon = make(start=False)
        self.orders = self.daemon.root / "orders"
        self.trace = self.daemon.root / "trace"
        self.orders.touch()
        self.daemon.environment[VARIABLE] = str(self.orders)
        self.daemon.start()
        self.daemon.image("bootsector")

    def have(self, scene: Scene) -> None:
        """Have the image that a scene needs."""
        if scene.image != "bootsector":
            self.daemon.image(scene.image)

    def client(self) -> Client:
        return self.daemon.client()

    def order(self, text: str = "") -> None:
        fresh = self.orders.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.orders)

    def stopped(self) -> bool:
        """Assert that the daemon has ended in order; tell whether by itself.

        How often progress is told, which is a commit, depends on time: a late visit may not come.
        """
        assert self.daemon.process is not None
        end = time.monotonic() + _STOPS_WITHIN
        while not self.dead() and time.monotonic() < end:
            time.sleep(0.03)
        itself = self.dead()
        assert self.daemon.stop() == 0, self.said()
        return itself

    def said(self) -> str:
        return self.daemon.log.read_text(errors="replace")[-3000:]

    def dead(self) -> bool:
        assert self.daemon.process is not None
        return self.daemon.process.poll() is not None

    def ask(self, scene: Scene) -> None:
        """Make the request; that nobody answers any more is what this is about."""
        try:
            with self.client() as client:
                asked = scene.ask(client)
                if isinstance(asked, dict) and str(asked.get("id", "")).startswith("op-"):
                    client.wait_operation(asked["id"], 300)
        except (DaemonUnreachable, WorldError):
            pass

    def places(self, scene: Scene) -> list[str]:
        """Return what a request comes by, in order, each with the number of its visit."""
        with self.client() as client:
            scene.prepare(client)
        self.trace.unlink(missing_ok=True)
        self.order(f"* = trace {self.trace}")
        self.ask(scene)
        self.order()
        found = self.trace.read_text().split() if self.trace.exists() else []
        self.clear()
        return found

    def restart(self) -> None:
        """Have a new daemon, which has recovered when this returns."""
        if not self.dead():
            self.daemon.stop()
        self.daemon.start()
        until(self.idle, self.under_way, 300, every=0.03)

    def idle(self) -> bool:
        with self.client() as client:
            return all(item["state"] != "running" for item in client.operations())

    def under_way(self) -> str:
        """Return what keeps it from being idle."""
        with self.client() as client:
            running = [item for item in client.operations() if item["state"] == "running"]
        return f"no operation runs, but {running} in {self.outcomes()}\n--- labd:\n{self.said()}"

    def clear(self) -> None:
        """Remove all that scenes make."""
        with self.client() as client:
            for found in client.classes.all():
                client.classes.destroy(found["name"])
            until(lambda: not client.classes.all(), "no class is left", 180)
            until(self.idle, self.under_way, 300)
            for lab in client.labs():
                settle(client, client.act("destroy", lab["name"], force=True))
            for pool in client.pools.all():
                client.pools.cool(pool["checkpoint"])
            for record in client.checkpoints.all():
                client.checkpoints.remove(record["name"])
            for image in client.images():
                if image["name"] not in {"bootsector", "tiny"}:
                    client.remove_image(image["name"])
            for plugin in client.plugins():
                client.set_plugin(plugin["name"], enabled=False)
        assert self.daemon.leaks() == []

    def outcomes(self) -> dict[str, Outcome]:
        """Return the state of every lab and of its nodes."""
        with self.client() as client:
            labs = [client.lab(lab["name"]) for lab in client.labs()]
        return {
            lab["name"]: {"": lab["state"]} | {n["name"]: n["state"] for n in lab["nodes"]}
            for lab in labs
        }

    def ended(self, scene: Scene) -> bool:
        """Tell whether every lab is in a state in which it may end."""
        found = self.outcomes()
        return found.keys() <= scene.ends.keys() and all(
            found.get(lab, {}) in ends for lab, ends in scene.ends.items()
        )

    def check(self, scene: Scene) -> None:
        """Compare kernel, folders, rows and events with each other."""
        with self.client() as client:
            until(lambda: scene.settled(client), "the daemon has done what was left", 180)
        until(lambda: self.ended(scene), lambda: f"{self.outcomes()} in {scene.ends}")
        daemon = self.daemon
        with self.client() as client:
            assert client.differences() == []
            labs = [client.lab(lab["name"]) for lab in client.labs()]
            nodes = [node for lab in labs for node in lab["nodes"]]
            waiting = [member for pool in client.pools.all() for member in pool["members"]]
            pids = [pid for member in waiting for pid in member["pids"].values()]
            assert sorted(daemon.qemus()) == sorted(pids + [n["pid"] for n in nodes if n["pid"]])
            spaces = [lab for lab in labs if lab["state"] != "stopped"]
            assert len(daemon.namespaces()) == len(spaces) + len(waiting), daemon.namespaces()
            served = [lab for lab in spaces if len(lab["nodes"]) > 1]  # see the templates' `dhcp`
            assert len(daemon.servers()) == len(served), daemon.servers()
            keys = len(nodes) + len(pids)
            assert len(list((daemon.root / "lib" / "nodes").glob("*"))) <= keys
            assert misfits(daemon.root) == []
            events = replay(client)
            assert gaps(events) == []
            assert fold(events)[1] == []


def chosen(visits: list[str], only: Collection[str]) -> list[str]:
    """Return the visits to die at: `name@number`, of each place the first or the last in turns."""
    total = Counter(name for name in visits if not only or name.partition(":")[0] in only)
    if SOAK:
        return [f"{name}@{n}" for name, last in total.items() for n in range(1, last + 1)]
    return [f"{name}@{last if at % 2 else 1}" for at, (name, last) in enumerate(total.items())]


def visits_of(faulty: Faulty, name: str) -> list[str]:
    """Return what a scene comes by; see `Faulty.places`."""
    if name not in _VISITS:
        _VISITS[name] = faulty.places(SCENES[name])
    return _VISITS[name]


@pytest.fixture
def faulty(make_daemon: Callable[..., Daemon]) -> Faulty:
    return Faulty(make_daemon)


@pytest.mark.parametrize("name", EACH)
def test_a_death_anywhere_ends_done_or_undone(faulty: Faulty, name: str) -> None:
    scene = SCENES[name]
    faulty.have(scene)
    visits = visits_of(faulty, name)
    assert visits, f"{name} comes by no place at all"
    places = list(enumerate(chosen(visits, scene.only)))
    for number, place in drawn(f"{name} deaths", places, *deaths_asked()):
        with faulty.client() as client:
            scene.prepare(client)
        faulty.order(f"{place} = kill")
        faulty.ask(scene)
        until(faulty.dead, f"{place} is reached by {name}")
        # Every second time the next daemon dies as it recovers, too.
        if number % 2:
            commit = f"inventory.commit:{'before' if number % 4 == 1 else 'after'}@{1 + number % 3}"
            turns = [commit, *scene.recovery]
            again = turns[number // 2 % len(turns)]
            faulty.order(f"{again} = kill")
            die_again(faulty)
        faulty.order()
        try:
            faulty.restart()
            faulty.check(scene)
        except AssertionError as error:
            raise AssertionError(f"{name}, killed at {place}: {error}") from error
        if not scene.lasting:
            faulty.clear()
    faulty.clear()


@pytest.mark.parametrize("name", EACH)
def test_a_stop_anywhere_ends_done_or_undone(faulty: Faulty, name: str) -> None:
    scene = SCENES[name]
    faulty.have(scene)
    places = drawn(name, stops(visits_of(faulty, name), scene.only), *stops_asked())
    reached = []
    for place in places:
        with faulty.client() as client:
            scene.prepare(client)
        faulty.order(f"{place} = stop")
        faulty.ask(scene)
        try:
            reached += [place] if faulty.stopped() else []
            faulty.order()
            faulty.restart()
            faulty.check(scene)
        except AssertionError as error:
            raise AssertionError(f"{name}, stopped at {place}: {error}") from error
        if not scene.lasting:
            faulty.clear()
    sure = {place for place in places if place.endswith("@1")}
    assert sure <= set(reached)
    faulty.clear()


def stops(visits: list[str], only: Collection[str]) -> list[str]:
    """Return the visits to stop at: those to die at, and every commit, each of which is another."""
    found = dict.fromkeys(chosen(visits, only))
    for name in (f"{COMMIT}:before", f"{COMMIT}:after") if not only or COMMIT in only else ():
        found |= dict.fromkeys(f"{name}@{n}" for n in range(1, visits.count(name) + 1))
    return list(found)


def drawn(name: str, places: list[T], seed: str, count: int) -> list[T]:
    """Return the places to die or to stop at, in their order: with `SOAK=1` all, or else some."""
    if SOAK or count >= len(places):
        return places
    kept = random.Random(f"{seed} {name}").sample(range(len(places)), count)
    return [places[at] for at in sorted(kept)]


def die_again(faulty: Faulty) -> None:
    """Start a daemon that may die while it recovers."""
    try:
        faulty.daemon.start()
        until(lambda: faulty.dead() or faulty.idle(), "it died, or has recovered", every=0.03)
    except (AssertionError, DaemonUnreachable):
        until(faulty.dead, "it died while it recovered")


def test_every_place_is_visited_by_a_scene(faulty: Faulty) -> None:
    seen: set[str] = set()
    for scene in SCENES.values():
        faulty.have(scene)
        seen |= set(faulty.places(scene))
    places = {*registry(), *STEPS}
    missed = {name for name in places - seen if name.partition(":")[0] not in UNREACHED}
    assert not missed, " ".join(sorted(missed))
    assert not {name for name in UNREACHED if f"{name}:after" in seen}, "it is reached after all"


def test_looks_name_methods_that_are_there() -> None:
    kinds = all_ports()
    for port, names in LOOKS.items():
        assert names <= set(dir(kinds[port])), port
    assert {"nodes", "networks", "images", "inventory"} <= set(kinds)


@pytest.mark.parametrize("order", ["raise", "errno ENOSPC", "errno EIO"])
def test_a_world_that_fails_is_told_and_taken_back(faulty: Faulty, order: str) -> None:
    # An error of the kernel in the place of a named one is a fault, and its log says so.
    faulty.daemon.faulty = True
    names = ["networks.apply", "networks.open_taps", "storage.clone", "nodes.launch"]
    for name in [f"{name}:before" for name in names] + ["storage.create:before"]:
        faulty.order(f"{name} = {order}")
        with faulty.client() as client:
            ended = client.wait_operation(up(client)["id"], 180)
            assert ended["state"] == "failed"
            assert ended["error"] is not None
            assert client.labs() == []
        assert faulty.daemon.leaks() == []
        assert not faulty.dead()
    faulty.order()
