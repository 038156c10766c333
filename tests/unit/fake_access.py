"""The access of the fake engine: everything is the administrators', and no token was given out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labd.features.access.tokens import digest, new_token
from labd.features.access.views import NewToken, Thing
from labd.model.errors import NotFound
from labd.model.people import Asked, Outcome, Owned, Role, TokenLab, TokenRecord


class FakeAccess:
    """Implements `AccessApi`. `told` has the requests that were written down."""

    def __init__(self, keys: Callable[[], Mapping[str, str]]) -> None:
        self._keys = keys
        self.records: dict[str, TokenRecord] = {}
        self.told: list[tuple[Asked, Outcome, Mapping[str, object]]] = []

    async def holder(self, hash: str) -> TokenRecord | None:
        return next((item for item in self.records.values() if item.hash == hash), None)

    async def owned(self, kind: Thing, name: str) -> Owned | None:
        key = self._keys().get(name)
        return None if kind is not Thing.LAB or key is None else Owned(key=key)

    async def all(self) -> Sequence[TokenRecord]:
        return list(self.records.values())

    async def create(
        self, name: str, role: Role, labs: Sequence[str], seconds: float | None
    ) -> NewToken:
        if unknown := set(labs) - set(self._keys()):
            raise NotFound(f"there is no lab {min(unknown)}")
        token = new_token()
        found = tuple(TokenLab(name=lab, key=self._keys()[lab]) for lab in labs)
        record = TokenRecord(name=name, role=role, hash=digest(token), labs=found)
        self.records[name] = record
        return NewToken(record=record, token=token)

    async def revoke(self, name: str) -> None:
        if name not in self.records:
            raise NotFound(f"there is no token {name}")
        del self.records[name]

    async def hand_out(
        self, group: str, students: Sequence[str], *, renew: bool
    ) -> Sequence[NewToken]:
        raise NotFound(f"there is no class {group}")

    async def report(self, asked: Asked, outcome: Outcome, more: Mapping[str, object]) -> None:
        asked.told = True
        self.told.append((asked, outcome, more))
