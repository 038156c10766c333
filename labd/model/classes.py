"""Classes: labs from one checkpoint, one for each student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.lab_leases import LeaseAsk
from labd.model.records import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student of a class.

    Attributes:
        name: Unique in the class; the lab is `CLASS-NAME`.
        settings: Of this student, besides those of the class.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord:
    """A class: intent, and what was made of it.

    Attributes:
        name: Unique.
        checkpoint: Key of the checkpoint from which all its labs are forked.
        source: Name that the checkpoint had.
        students: In the order of the roster.
        settings: Of all students.
        lease: Of each of the labs, None for none.
        wanted: Intent for all labs of the class.
        made: Student -> key of the lab that was forked, written in the transaction that made it.
        failed: Student -> why the lab could not be forked.
        told: `class.ready` was told since students were added.
        created: RFC 3339 UTC.
    """

    name: str
    checkpoint: str
    source: str
    students: tuple[Student, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    lease: LeaseAsk | None = None
    wanted: Wanted = Wanted.RUNNING
    made: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    told: bool = False
    created: str = ""

    def lab_of(self, student: str) -> str:
        """Return the name of a student's lab."""
        return f"{self.name}-{student}"
