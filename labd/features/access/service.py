"""Tokens of people, and whose things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labd.core.adapters import Adapters
from labd.core.state_writer import StateWriter
from labd.features.access import tokens
from labd.features.access.views import NewToken
from labd.inventory.port import Transaction
from labd.model.errors import Conflict, InputError, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.lab_leases import LeaseStage
from labd.model.names import check_name, did_you_mean
from labd.model.people import Asked, Outcome, Owned, Role, Thing, TokenLab, TokenRecord
from labd.model.records import LabRecord

_LONGEST = 10 * 366 * 86400.0  # seconds


class Access:
    """Tokens of people, whose things are, and the record of who asked for what."""

    def __init__(self, adapters: Adapters, state_writer: StateWriter) -> None:
        self._adapters = adapters
        self._inventory = adapters.inventory
        self._state_writer = state_writer

    # who

    async def holder(self, hash: str) -> TokenRecord | None:
        """Return the token of this sha256 with the labs that are there; None unless it is good.

        A student's is good while one of its labs is there, and of a class while the lab's lease has
        not ended.
        """
        record = await self._inventory.token(hash)
        if record is None or tokens.is_over(record, self._adapters.moment().wall):
            return None
        if record.role is not Role.STUDENT:
            return record
        there: dict[str, str] = {}
        for lab in record.labs:
            found = await self._inventory.lab(lab.name)
            if found is not None and not (record.group and await self._lease_is_over(lab.name)):
                there[lab.name] = found.key
        labs = tokens.living(record, there)
        return replace(record, labs=labs) if labs else None

    async def _lease_is_over(self, lab: str) -> bool:
        lease = await self._inventory.lab_lease(lab)
        return lease is not None and lease.stage is LeaseStage.ENDED

    # whose

    async def owned(self, kind: Thing, name: str) -> Owned | None:
        """Return whose a thing is, None when there is none."""
        if kind is Thing.LAB:
            lab = await self._inventory.lab(name)
            return None if lab is None else Owned(owner=lab.owner, key=lab.key)
        if kind is Thing.OPERATION:
            operation = await self._inventory.operation(name)
            return None if operation is None else operation.of
        if kind is Thing.CLASS:
            groups = {item.name: item.owner for item in await self._inventory.classes()}
            return Owned(owner=groups[name]) if name in groups else None
        saved = {item.name: item.owner for item in await self._inventory.checkpoints()}
        return Owned(owner=saved[name]) if name in saved else None

    async def labs(self) -> Sequence[LabRecord]:
        """Return all labs by name."""
        return await self._inventory.labs()

    # tokens

    async def all(self) -> Sequence[TokenRecord]:
        """Return all tokens by name."""
        return await self._inventory.tokens()

    async def create(
        self, name: str, role: Role, labs: Sequence[str], seconds: float | None
    ) -> NewToken:
        """Make a token.

        Args:
            name: Of the token; of an instructor, whose labs are those of this name.
            role: Not `plugin`.
            labs: Of a student, one at least; of all others none.
            seconds: Until it expires; None: never.

        Raises:
            Conflict: There is one of this name.
            InputError: Role and labs do not fit.
            NotFound: There is no such lab.
        """
        check_name(name, "token")
        _check(role, labs, seconds)
        wall = self._adapters.moment().wall
        token = tokens.new_token()
        async with self._inventory.transaction() as tx:
            if any(item.name == name for item in await self._inventory.tokens()):
                raise Conflict(
                    f"there is a token {name} already; revoke it with `lab token revoke {name}`, "
                    "or choose another name"
                )
            record = TokenRecord(
                name=name,
                role=role,
                hash=tokens.digest(token),
                labs=tuple([await self._lab(lab) for lab in dict.fromkeys(labs)]),
                created=self._adapters.clock(),
                expires="" if seconds is None else tokens.stamp(wall + seconds),
            )
            await put_token(tx, record)
        return NewToken(record=record, token=token, expires=record.expires)

    async def _lab(self, name: str) -> TokenLab:
        return TokenLab(name=name, key=(await self._state_writer.lab(name)).key)

    async def revoke(self, name: str) -> None:
        """Make a token void.

        Raises:
            NotFound: There is none.
        """
        async with self._inventory.transaction() as tx:
            there = [item.name for item in await self._inventory.tokens()]
            if name not in there:
                raise NotFound(f"there is no token {name[:64]}{did_you_mean(name, there)}")
            await tx.delete_token(name)
            await tx.emit(EventDraft(type=EventType.TOKEN_REVOKED, subject=name))

    # the record of requests

    async def report(self, asked: Asked, outcome: Outcome, more: Mapping[str, object]) -> None:
        """Write that somebody asked for something, when no change has told it."""
        asked.told = True
        if await self._inventory.lab(asked.lab) is None:
            asked.lab = asked.node = ""  # it is in `about`, as it was written
        await self._state_writer.emit(asked.draft(outcome, more=more))


def _check(role: Role, labs: Sequence[str], seconds: float | None) -> None:
    if role is Role.PLUGIN:
        raise InputError("plugins get their tokens from labd when they start; choose another role")
    if role is Role.STUDENT and not labs:
        raise InputError("a student's token is for labs: name one with --lab")
    if role is not Role.STUDENT and labs:
        raise InputError(f"labs are of a student's token; a token of role {role} has none")
    if seconds is not None and not 1 <= seconds <= _LONGEST:
        raise InputError("a token lasts from one second to ten years; leave it out for no end")


async def put_token(tx: Transaction, record: TokenRecord) -> None:
    """Write a new token and tell it."""
    await tx.put_token(record)
    await tx.emit(
        EventDraft(
            type=EventType.TOKEN_CREATED,
            lab=record.labs[0].name if len(record.labs) == 1 else "",
            subject=record.name,
            data={
                "role": str(record.role),
                "labs": [lab.name for lab in record.labs],
                "expires": record.expires,
            },
        )
    )
