"""What the service of links takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labd.model.impairment import Impairment


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """How a NIC is attached, and what happens to what it sends.

    Attributes:
        network: Name of its network or link.
        link: It is a link of two ends.
        to: `NODE/NIC` of the others in it.
        down: Its carrier is off.
        changed: By `set`, so that it is not (or need not be) as the template says.
    """

    network: str
    link: bool
    node: str
    nic: str
    to: tuple[str, ...]
    down: bool
    sends: Impairment
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """What to change of links; the rest stays as it is.

    Attributes:
        target: Name of a link or network, or `NODE/NIC`, which is what that NIC sends.
        sender: `NODE` or `NODE/NIC` of those in the target whose frames are meant; empty for all.
        down: Carrier off or on; None: as it is.
        fields: Field of `Impairment` -> its new value.
    """

    target: str
    sender: str = ""
    down: bool | None = None
    fields: Mapping[str, float] = field(default_factory=dict)
