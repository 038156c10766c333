"""Turns of classes, as a simulation: every class gets its turn, whatever others ask for."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from labd.features.classes.plan import ClassAct, FirstAct
from labd.features.classes.turns import AT_ONCE, Lane, Step, Turns
from labd.model.classes import ClassRecord, Student

MANY = 10_000  # looks, half a second apart


def a_class(name: str, *, queue: bool = True) -> ClassRecord:
    students = (Student(name="s0"),)
    return ClassRecord(name=name, checkpoint="k", source="c", students=students, queue=queue)


def a_step(record: ClassRecord, number: int, act: ClassAct = ClassAct.FORK) -> Step:
    return Step(record=record, lab=f"{record.name}-s{number}", act=act, student=f"s{number}")


@dataclass
class Host:
    """Room, and what is due; each start takes `need` bytes and lasts a look or a few."""

    room: int
    need: dict[str, int]
    due: dict[str, list[Step]]
    random: random.Random
    turns: Turns = field(default_factory=Turns)
    now: float = 0.0
    begun: list[str] = field(default_factory=list)
    slow: list[tuple[float, Step]] = field(default_factory=list)

    def look(self) -> None:
        """Do what `ClassWork.tick` does, with what comes of it."""
        self.now += 0.5
        for when, step in list(self.slow):
            if when <= self.now:
                self.slow.remove((when, step))
                self.turns.done(step)
        steps = [step for steps in self.due.values() for step in steps]
        self.turns.keep(steps, self.due.keys())
        for step in self.turns.pick(steps, self.now, self.room):
            self.start(step)

    def start(self, step: Step) -> None:
        name = step.record.name
        if self.need[name] > self.room:
            self.turns.found_no_room(step, self.now, self.need[name])
            self.turns.done(step)
            return
        self.room -= self.need[name]
        self.due[name].remove(step)
        self.begun.append(name)
        self.turns.begun(step)
        self.slow.append((self.now + self.random.choice([0.5, 1.0, 5.0]), step))


def a_host(seed: int, needs: dict[str, int], labs: int, room: int, most: int = 0) -> Host:
    records = [a_class(name) for name in needs]
    due = {record.name: [a_step(record, n) for n in range(labs)] for record in records}
    return Host(room=room, need=needs, due=due, random=random.Random(seed), turns=Turns(most))


@pytest.mark.parametrize("seed", range(20))
def test_all_classes_converge_and_others_go_first_a_bounded_number_of_times(seed: int) -> None:
    chance = random.Random(seed)
    number = chance.randint(2, 12)
    host = a_host(seed, {f"c{n}": 10 for n in range(number)}, chance.randint(1, 20), room=0)
    for _ in range(MANY):
        host.look()
        if chance.random() < 0.3:
            host.room += chance.choice([10, 10, 10, 40])  # a lab is destroyed
        if not any(host.due.values()):
            break
    assert not any(host.due.values()), "everybody was served"
    last: dict[str, int] = {}
    left = Counter(host.begun)
    for index, name in enumerate(host.begun):
        for other, at in [(other, last.get(other, -1)) for other in host.need]:
            # One that still has labs due was passed by each other class twice at most.
            assert not left[other] or index - at <= 2 * number + AT_ONCE, (host.begun, other)
        last[name] = index
        left[name] -= 1


@pytest.mark.parametrize("seed", range(10))
def test_small_labs_do_not_take_each_gap_from_a_big_one(seed: int) -> None:
    host = a_host(seed, {"big": 100, "small": 10, "tiny": 10}, labs=500, room=0, most=1000)
    host.due["big"] = host.due["big"][:1]
    for _ in range(MANY):
        host.look()
        host.room += 10  # never enough at once for the big one
        if not host.due["big"]:
            break
    assert not host.due["big"]
    assert host.begun.index("big") <= 16 + AT_ONCE


def test_one_that_can_never_fit_keeps_no_room() -> None:
    host = a_host(1, {"huge": 5000, "small": 10}, labs=60, room=0, most=1000)
    for _ in range(MANY):
        host.look()
        host.room = min(host.room + 10, 1000)
    assert not host.due["small"]
    assert len(host.due["huge"]) == 60


def test_without_room_one_of_each_class_asks_now_and_then() -> None:
    host = a_host(1, {"a": 10, "b": 10}, labs=50, room=0)
    asked, steps = 0, list[Step]()
    for _ in range(200):
        steps = [step for steps in host.due.values() for step in steps]
        host.now += 0.5
        picked = host.turns.pick(steps, host.now, 0)
        asked += len(picked)
        for step in picked:
            host.start(step)
    assert 2 * 100 / 5 - 4 <= asked <= 2 * 100 / 5 + AT_ONCE, "every five seconds"
    host.turns.pick(steps, host.now, 0)
    assert [step.record.name for step in host.turns.pick(steps, host.now + 0.1, 10)] == ["a", "b"]


def test_lanes_do_not_wait_for_each_other() -> None:
    turns = Turns()
    first, later = a_class("abc"), a_class("zoo")
    forks = [a_step(first, number) for number in range(20)]
    ends = [a_step(later, number, ClassAct.DESTROY) for number in range(20)]
    boots = [Step(record=a_class(f"c{n}"), lab=f"c{n}", act=FirstAct.UP) for n in range(9)]
    picked = turns.pick([*forks, *ends, *boots], 0.0, 1 << 40)
    assert Counter(step.lane for step in picked) == {
        Lane.START: AT_ONCE,
        Lane.END: AT_ONCE,
        Lane.PREPARE: 9,
    }
    assert turns.pick([*forks, *ends, *boots], 0.5, 1 << 40) == []


def test_what_fails_is_tried_again_ever_later_and_holds_no_slot() -> None:
    turns = Turns()
    steps = [a_step(a_class("abc"), number, ClassAct.DESTROY) for number in range(8)]
    now, tried = 0.0, Counter[str]()
    while now < 200.0:
        for step in turns.pick(steps, now, 0):
            tried[step.lab] += 1
            turns.failed(step, now)
            turns.done(step)
        now += 0.5
    # At once, and after 5, 10, 20, 40, 60 and 60 s.
    assert set(tried.values()) == {7}
    assert len(tried) == 8
