"""What is due for a class: from its record and the labs that there are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from labd.core.admission import admit_forks
from labd.model.classes import ClassRecord
from labd.model.errors import NotFound
from labd.model.names import did_you_mean
from labd.model.records import LabRecord, Wanted
from labd.model.states import LabState
from labd.model.units import format_size


class ClassAct(StrEnum):
    """What is done for one student."""

    FORK = "fork"
    START = "start"
    DOWN = "down"
    DESTROY = "destroy"


class FirstAct(StrEnum):
    """What is done for the first copy of a template, from which the others are forked."""

    UP = "up"
    SAVE = "save"
    DESTROY = "destroy"
    REMOVE = "remove"  # of its checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPlan:
    """What is due.

    Attributes:
        first: What is due for the first copy.
        steps: Student and act, in the order of the roster.
        ready: Every student was served, well or not, and no lab is starting; of a class that shall
            be stopped: all its labs were.
        gone: The class is to be destroyed, and none of its labs is left.
    """

    steps: tuple[tuple[str, ClassAct], ...]
    ready: bool
    gone: bool
    first: FirstAct | None = None


def named(records: Iterable[ClassRecord], name: str) -> ClassRecord:
    """Return the class of this name.

    Raises:
        NotFound: There is none.
    """
    found = {record.name: record for record in records}
    if name not in found:
        raise NotFound(f"there is no class {name[:64]}{did_you_mean(name, found)}")
    return found[name]


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


def plan_first(
    record: ClassRecord, labs: Mapping[str, LabRecord], *, saved: bool
) -> FirstAct | None:
    """Return what is due for the first copy of a template.

    Args:
        record: The class.
        labs: By name.
        saved: Whether its checkpoint is there.
    """
    if record.spec is None:
        return None
    lab = labs.get(record.name)
    there = lab is not None and lab.key == record.first
    if saved or record.wanted is not Wanted.RUNNING:
        if there:
            return FirstAct.DESTROY
        left = any(own_lab(record, item.name, labs) for item in record.students)
        remove = saved and record.wanted is Wanted.DESTROYED and not left
        return FirstAct.REMOVE if remove else None
    if all(item.name in record.failed for item in record.students):
        return None  # told; asked again, it is tried again
    return FirstAct.SAVE if lab and there and lab.state is LabState.RUNNING else FirstAct.UP


def plan(
    record: ClassRecord,
    labs: Mapping[str, LabRecord],
    *,
    saved: bool = True,
    busy: Collection[str] = (),
) -> ClassPlan:
    """Return what is due for a class.

    Args:
        record: The class.
        labs: By name.
        saved: Whether its checkpoint is there.
        busy: Names of labs with which an operation works; a lab may look spoilt meanwhile.
    """
    first = plan_first(record, labs, saved=saved)
    # To be destroyed it need not be waited for: that ends whatever start of it is under way.
    ends = first is FirstAct.DESTROY and record.wanted is not Wanted.RUNNING
    if first is not None and record.name in busy and not ends:
        return ClassPlan(steps=(), ready=False, gone=False)
    if not saved and record.spec is not None and record.wanted is Wanted.RUNNING:
        return ClassPlan(steps=(), ready=first is None, gone=False, first=first)
    own = {item.name: own_lab(record, item.name, labs) for item in record.students}
    steps = _steps(record, own)
    starting = any(
        lab is not None and (lab.state is LabState.STARTING or lab.name in busy)
        for lab in own.values()
    )
    return ClassPlan(
        steps=tuple(steps),
        ready=record.wanted is not Wanted.DESTROYED and not steps and not starting,
        gone=record.wanted is Wanted.DESTROYED and not steps and first is None,
        first=first,
    )


def _steps(record: ClassRecord, own: Mapping[str, LabRecord | None]) -> list[tuple[str, ClassAct]]:
    """Return what is due for each student, whose lab is in `own`."""
    steps: list[tuple[str, ClassAct]] = []
    to_fork = set(due(record))
    for student, lab in own.items():
        if record.wanted is Wanted.RUNNING:
            if student in to_fork:
                steps.append((student, ClassAct.FORK))
            elif student in record.again and lab is not None and lab.state is LabState.STOPPED:
                steps.append((student, ClassAct.START))
        elif lab is None:
            continue
        elif record.wanted is Wanted.DESTROYED:
            steps.append((student, ClassAct.DESTROY))
        elif (
            not record.told  # once: who is started afterwards runs
            and lab.state is not LabState.STOPPED
            and lab.wanted is not Wanted.DESTROYED
        ):
            steps.append((student, ClassAct.DOWN))
    return steps


def due(record: ClassRecord) -> list[str]:
    """Return the students for whom a lab is still to be forked."""
    names = (item.name for item in record.students)
    return [name for name in names if name not in record.made and name not in record.failed]


def require_room(name: str, due: int, each: int, room: int) -> None:
    """Raise NoRoom unless the host holds so many labs more.

    Args:
        name: Of the class.
        due: Labs that would be forked.
        each: Bytes that one of them may need for itself.
        room: Bytes that are free.

    Raises:
        NoRoom: Says how many fit.
    """
    admit_forks(
        due,
        each,
        room,
        lambda fit, room: (
            f"class {name} does not fit: each of its {due} labs may need {format_size(each)}, and "
            f"the host has {format_size(room)} free, enough for {fit}; start it with "
            "fewer students, or stop other labs"
        ),
    )
