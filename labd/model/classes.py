"""Classes: labs from one checkpoint, or from one template, one for each student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.lab_leases import LeaseAsk
from labd.model.records import Wanted
from labd.model.specs import LabSpec


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
        checkpoint: Key of the checkpoint from which all its labs are forked; of a class from a
            template chosen before there is one.
        source: Name of the checkpoint.
        spec: Of a class from a template: what its first copy, a lab of the class's name, is made
            of. It is saved as the checkpoint `source` and destroyed.
        first: Key of that first copy, chosen before there is one.
        queue: Students for whom there is no room wait, instead of a refusal.
        students: In the order of the roster.
        settings: Of all students.
        lease: Of each of the labs, None for none.
        wanted: Intent for all labs of the class.
        made: Student -> key of the lab that was forked, written in the transaction that made it.
        again: Students whose labs were stopped with the class and are to be started once more.
        failed: Student -> why the lab could not be forked or started again.
        told: `class.ready` was told since students were added, or all labs were stopped.
        created: RFC 3339 UTC.
        owner: The instructor whose it is, and whose its labs are; empty: the administrators'.
    """

    name: str
    checkpoint: str
    source: str
    students: tuple[Student, ...]
    spec: LabSpec | None = None
    first: str = ""
    queue: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    lease: LeaseAsk | None = None
    wanted: Wanted = Wanted.RUNNING
    made: Mapping[str, str] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    told: bool = False
    created: str = ""
    owner: str = ""

    def lab_of(self, student: str) -> str:
        """Return the name of a student's lab."""
        return f"{self.name}-{student}"
