"""Tokens of a class's students: the same ones each time, until they are renewed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labd.core.adapters import Adapters
from labd.features.access import NewToken, class_token, derived, put_token, stamp
from labd.features.classes import plan as classes
from labd.inventory.port import Transaction
from labd.model.classes import ClassRecord
from labd.model.errors import NotFound
from labd.model.lab_leases import LeaseStage
from labd.model.names import did_you_mean
from labd.model.people import TokenRecord
from labd.model.records import LabRecord


class ClassTokens:
    """Hands out the tokens of students."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._inventory = adapters.inventory

    async def hand_out(
        self, group: str, students: Sequence[str], *, renew: bool
    ) -> Sequence[NewToken]:
        """Return the tokens of a class's students who have a lab, or of some.

        They are the same each time; with `renew` they are others, and the old ones are void.

        Raises:
            NotFound: There is no such class, or student in it.
        """
        async with self._inventory.transaction() as tx:
            record = classes.named(await self._inventory.classes(), group)
            known = [item.name for item in record.students]
            for student in students:
                if student not in known:
                    near = did_you_mean(student, known)
                    raise NotFound(f"there is no student {student} in class {group}{near}")
            labs = {lab.name: lab for lab in await self._inventory.labs()}
            old = {item.name: item for item in await self._inventory.tokens()}
            return [
                await self._token_of(tx, record, student, lab, old, renew=renew)
                for student in dict.fromkeys(students or known)
                if (lab := classes.own_lab(record, student, labs)) is not None
            ]

    async def _token_of(
        self,
        tx: Transaction,
        group: ClassRecord,
        student: str,
        lab: LabRecord,
        old: Mapping[str, TokenRecord],
        *,
        renew: bool,
    ) -> NewToken:
        there = old.get(f"{group.name}.{student}")
        generation = 0 if there is None else there.generation + renew
        secret = self._adapters.token_secret
        record = class_token(
            secret,
            group.name,
            student,
            lab,
            created=self._adapters.clock(),
            generation=generation,
        )
        if there is None or there.hash != record.hash or there.labs != record.labs:
            await put_token(tx, record)
        lease = await self._inventory.lab_lease(lab.name)
        return NewToken(
            record=record,
            token=derived(secret, lab.key, generation),
            student=student,
            expires=stamp(lease.due) if lease and lease.stage is LeaseStage.RUNNING else "",
        )
