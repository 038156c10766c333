"""Whose turn it is: what classes have due is begun in turns, in lanes that never wait for another.

Pure but for the notes that it keeps. Nothing waits here: what cannot be begun now is left out, and
whoever asks again later gets it then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from labd.features.classes.plan import ClassAct, FirstAct
from labd.model.classes import ClassRecord

AT_ONCE = 4  # labs that are started at one time, and as many that are stopped or destroyed
_FIRST_AGAIN, _LAST_AGAIN = 5.0, 60.0  # seconds until what could not be done is tried again
_ROOM_AGAIN = 5.0  # seconds until a class without room is tried again, though no more room shows
# Starts of other queued classes that go past one that finds no room. Then the room is kept for it,
# or small labs would take each gap for ever in which a big one could have been made.
_PASSES = 16


class Lane(StrEnum):
    """What shares slots."""

    PREPARE = "prepare"  # first copies: one a class, bounded by memory and boot slots as any `up`
    START = "start"
    END = "end"


_STARTS = frozenset({ClassAct.FORK, ClassAct.START})


def lane_of(act: ClassAct | FirstAct) -> Lane:
    """Return the lane in which something is done."""
    if act in {FirstAct.UP, FirstAct.SAVE}:
        return Lane.PREPARE
    return Lane.START if act in _STARTS else Lane.END


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is due.

    Attributes:
        record: The class.
        lab: Name of the lab with which something is done.
        act: What.
        student: Whose lab it is; empty for the first copy.
    """

    record: ClassRecord
    lab: str
    act: ClassAct | FirstAct
    student: str = ""

    @property
    def lane(self) -> Lane:
        """The lane in which it is done."""
        return lane_of(self.act)

    @property
    def queued(self) -> bool:
        """Whether it waits for room, if there is none."""
        return self.record.queue and self.lane is Lane.START


@dataclass(slots=True)
class _NoRoom:
    """A class that found no room.

    Attributes:
        again: When it is tried again at the latest, in seconds of the loop's clock.
        need: Bytes that it lacked room for; 0 when that is not known.
        passed: Starts of other queued classes since.
        trying: One of its students finds out whether there is room by now.
    """

    again: float
    need: int
    passed: int = 0
    trying: bool = False


class Turns:
    """Hands out slots: in each lane the class goes next whose last turn is longest ago.

    Args:
        most: Bytes that the host has for labs in all; 0 when that is not known.
        size: Slots of the lanes START and END each.
    """

    def __init__(self, most: int = 0, size: int = AT_ONCE) -> None:
        self._most = most
        self._size = size
        self._turn = 0
        self._served: dict[tuple[Lane, str], int] = {}
        # What has a slot, with when its class had had its turn before that.
        self._working: dict[tuple[Lane, str], int] = {}
        self._again: dict[tuple[Lane, str], tuple[float, float]] = {}  # when, and after how long
        self._no_room: dict[str, _NoRoom] = {}

    def pick(self, due: Iterable[Step], now: float, room: int) -> list[Step]:
        """Take slots for what can be begun now; each is to be given back with `done`.

        Args:
            due: Everything that is due, of all classes.
            now: Seconds of the loop's clock.
            room: Bytes of memory that are free.
        """
        waiting: dict[tuple[Lane, str], list[Step]] = {}
        for step in due:
            if self._ripe(step, now, room):
                waiting.setdefault((step.lane, step.record.name), []).append(step)
        picked: list[Step] = []
        while waiting:
            turn = min(waiting, key=lambda item: (self._served.get(item, 0), item[1]))
            step = waiting[turn].pop(0)
            if not waiting[turn]:
                del waiting[turn]
            if self._is_full(step.lane) or self._held_back(step):
                waiting.pop(turn, None)
                continue
            if step.queued and step.record.name in self._no_room:
                waiting.pop(turn, None)  # one finds out whether there is room for the others
            self._take(step)
            picked.append(step)
        return picked

    def _take(self, step: Step) -> None:
        self._turn += 1
        key = (step.lane, step.record.name)
        self._working[step.lane, step.lab] = self._served.get(key, 0)
        self._served[key] = self._turn
        if not step.queued:
            return
        for name, refused in self._no_room.items():
            if name == step.record.name:
                refused.trying = True

    def _ripe(self, step: Step, now: float, room: int) -> bool:
        if (step.lane, step.lab) in self._working:
            return False
        if now < self._again.get((step.lane, step.lab), (0.0, 0.0))[0]:
            return False
        refused = self._no_room.get(step.record.name) if step.queued else None
        if refused is None:
            return True
        if refused.trying:
            return False
        return now >= refused.again or 0 < refused.need <= room

    def _held_back(self, step: Step) -> bool:
        """True if the room is kept for a class that has been passed too often."""
        if not step.queued:
            return False
        late = [
            name
            for name, refused in self._no_room.items()
            if refused.passed >= _PASSES and (not self._most or refused.need <= self._most)
        ]
        return bool(late) and step.record.name != late[0]

    def _is_full(self, lane: Lane) -> bool:
        if lane is Lane.PREPARE:
            return False
        return sum(1 for taken, _ in self._working if taken is lane) >= self._size

    # what became of it

    def done(self, step: Step) -> None:
        """Give back the slot of a step."""
        self._working.pop((step.lane, step.lab), None)
        if step.queued and (refused := self._no_room.get(step.record.name)) is not None:
            refused.trying = False

    def begun(self, step: Step) -> None:
        """Note that there was room for a lab: the others of its class are tried, too."""
        if not step.queued:
            return
        self._no_room.pop(step.record.name, None)
        for refused in self._no_room.values():
            refused.passed += 1

    def succeeded(self, step: Step) -> None:
        """Forget that a step failed before."""
        self._again.pop((step.lane, step.lab), None)

    def failed(self, step: Step, now: float) -> None:
        """Have a step tried again later, each time after twice as long."""
        _, pause = self._again.get((step.lane, step.lab), (0.0, _FIRST_AGAIN / 2))
        pause = min(2 * pause, _LAST_AGAIN)
        self._again[step.lane, step.lab] = (now + pause, pause)

    def found_no_room(self, step: Step, now: float, need: int) -> None:
        """Have a queued class tried again when there are `need` bytes, and after a while anyway.

        That was no turn: who has waited longest still goes first.
        """
        before = self._working.get((step.lane, step.lab), 0)
        key = (step.lane, step.record.name)
        self._served[key] = min(self._served.get(key, 0), before)
        known = self._no_room.setdefault(step.record.name, _NoRoom(again=0.0, need=0))
        known.again, known.need = now + _ROOM_AGAIN, need

    def keep(self, due: Sequence[Step], names: Collection[str]) -> None:
        """Forget what concerns nothing that is due any more, and classes that are no more."""
        labs = {(step.lane, step.lab) for step in due}
        queued = {step.record.name for step in due if step.queued}
        self._again = {key: value for key, value in self._again.items() if key in labs}
        self._no_room = {key: value for key, value in self._no_room.items() if key in queued}
        self._served = {key: turn for key, turn in self._served.items() if key[1] in names}
