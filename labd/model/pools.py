"""Warm pools: forks of a checkpoint that are loaded and stand still until somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from labd.model.records import NodeRecord

# No lab has such a name, so that no member can be taken for one.
MARK = "pool."


class MemberState(StrEnum):
    """Life of a member. One that is taken is a lab from then on, and no member any more."""

    MAKING = "making"
    READY = "ready"  # every node is loaded, and its CPUs have not run
    ENDING = "ending"


READY = frozenset({MemberState.READY})
KEPT = READY | {MemberState.MAKING}  # count for the size of a pool


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPoolRecord:
    """A pool: the wish that so many forks of a checkpoint are kept ready.

    Attributes:
        checkpoint: Key of the checkpoint.
        size: How many.
        created: RFC 3339 UTC.
    """

    checkpoint: str
    size: int
    created: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmMember:
    """A fork without a name.

    Attributes:
        key: Of the lab that it becomes; names its namespace.
        checkpoint: Key of the checkpoint.
        state: As written last.
        nodes: With their machines and processes once it is ready; `lab` is `label` till then.
        created: RFC 3339 UTC.
    """

    key: str
    checkpoint: str
    state: MemberState
    nodes: tuple[NodeRecord, ...]
    created: str = ""

    @property
    def label(self) -> str:
        """What stands where a lab's name would, in messages and command lines."""
        return f"{MARK}{self.key}"


def waiting(members: Iterable[WarmMember]) -> list[NodeRecord]:
    """Return the nodes of members: like those of labs, they have machines, users and disks."""
    return [node for member in members for node in member.nodes]
