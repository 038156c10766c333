"""What the API may ask of classes: a part of `facade.EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from labd.model.classes import ClassRecord, Student
from labd.model.lab_leases import LeaseAsk
from labd.model.specs import LabSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """A class and the states of its labs.

    Attributes:
        states: Student -> state of the lab; `waiting`, `failed` or `gone` where there is none.
    """

    record: ClassRecord
    states: Mapping[str, str]


class ClassesApi(Protocol):
    """Labs for everybody on a roster."""

    async def start(
        self,
        name: str,
        source: str | LabSpec,
        students: Sequence[Student],
        *,
        settings: Mapping[str, str],
        lease: LeaseAsk | None = None,
        queue: bool = False,
    ) -> ClassView:
        """Fork a lab for each student, or for those who have none when the class is there already.

        Args:
            name: Of the class.
            source: Name of a checkpoint; or what a first copy is made of, which is booted and saved
                as a checkpoint of the class's name, and destroyed.
            students: At least one.
            settings: Of all students.
            lease: Of each lab.
            queue: Let students wait for whom there is no room at present.

        Raises:
            Conflict: A lab has the name of a student's, or the class has another source.
            InputError: A name or setting is not valid, or comes twice.
            NoRoom: The host cannot hold them, and `queue` is not asked; nothing was begun.
        """

    async def add(self, name: str, students: Sequence[Student]) -> ClassView:
        """Let more students take part; they get what the others got. Raises as `start`."""

    async def all(self) -> Sequence[ClassView]:
        """Return all classes by name."""

    async def get(self, name: str) -> ClassView:
        """Return one class; NotFound when there is none."""

    async def extend(self, name: str, seconds: float) -> ClassView:
        """Let the leases of all its labs last longer, all or none.

        Raises:
            Conflict: None of its labs has a lease.
            InputError: They would not be longer, or too long.
        """

    async def stop(self, name: str) -> ClassView:
        """Stop all its labs and keep their disks."""

    async def destroy(self, name: str) -> ClassView:
        """Remove all its labs, and then the class."""
