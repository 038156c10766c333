"""What is due for a class: from its record and the labs that there are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from labd.model.classes import ClassRecord
from labd.model.errors import NoRoom
from labd.model.records import LabRecord, Wanted
from labd.model.states import LabState
from labd.model.units import format_size


class ClassAct(StrEnum):
    """What is done for one student."""

    FORK = "fork"
    DOWN = "down"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPlan:
    """What is due.

    Attributes:
        steps: Student and act, in the order of the roster.
        ready: Every student was served, well or not, and no lab is starting.
        gone: The class is to be destroyed, and none of its labs is left.
    """

    steps: tuple[tuple[str, ClassAct], ...]
    ready: bool
    gone: bool


def own_lab(record: ClassRecord, student: str, labs: Mapping[str, LabRecord]) -> LabRecord | None:
    """Return the lab that was forked for a student, not another one of this name."""
    lab = labs.get(record.lab_of(student))
    return lab if lab is not None and record.made.get(student) == lab.key else None


def state_of(record: ClassRecord, student: str, labs: Mapping[str, LabRecord]) -> str:
    """Return the state of a student's lab; `waiting`, `failed` or `gone` where there is none."""
    lab = own_lab(record, student, labs)
    if lab is not None:
        return str(lab.state)
    if student in record.failed:
        return "failed"
    return "gone" if student in record.made else "waiting"


def plan(record: ClassRecord, labs: Mapping[str, LabRecord]) -> ClassPlan:
    """Return what is due for a class."""
    steps: list[tuple[str, ClassAct]] = []
    own = {item.name: own_lab(record, item.name, labs) for item in record.students}
    for student, lab in own.items():
        if record.wanted is Wanted.RUNNING:
            if student not in record.made and student not in record.failed:
                steps.append((student, ClassAct.FORK))
        elif lab is None:
            continue
        elif record.wanted is Wanted.DESTROYED:
            steps.append((student, ClassAct.DESTROY))
        elif lab.state is not LabState.STOPPED and lab.wanted is not Wanted.DESTROYED:
            steps.append((student, ClassAct.DOWN))
    starting = any(lab is not None and lab.state is LabState.STARTING for lab in own.values())
    return ClassPlan(
        steps=tuple(steps),
        ready=record.wanted is Wanted.RUNNING and not steps and not starting,
        gone=record.wanted is Wanted.DESTROYED and not steps,
    )


def require_room(name: str, due: int, each: int, room: int) -> None:
    """Return when the host holds so many labs more.

    Args:
        name: Of the class.
        due: Labs that would be forked.
        each: Bytes that one of them may need for itself.
        room: Bytes that are free.

    Raises:
        NoRoom: Says how many fit.
    """
    fit = max(room, 0) // each if each else due
    if due > fit:
        raise NoRoom(
            f"class {name} does not fit: each of its {due} labs may need {format_size(each)}, and "
            f"the host has {format_size(max(room, 0))} free, enough for {fit}; start it with "
            "fewer students, or stop other labs",
            fit=fit,
            asked=due,
            each=each,
            room=max(room, 0),
        )
