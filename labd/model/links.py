"""Links: how each NIC of a lab is attached at present, over what its template says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from labd.model.impairment import Impairment
from labd.model.specs import LabSpec, NicSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord:
    """What `lab link set` said of one NIC; it goes with its lab.

    Attributes:
        lab, node, nic: Names.
        down: Its carrier is off; None: as the template says.
        sends: What happens to the frames that the node sends; None: as the template says.
    """

    lab: str
    node: str
    nic: str
    down: bool | None = None
    sends: Impairment | None = None

    @property
    def empty(self) -> bool:
        """It says nothing."""
        return self.down is None and self.sends is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """Impairment of what one NIC sends, and where the kernel does it.

    The far end of a link gets everything that the near one sends, so that the queue of its tap
    (which is towards the guest) is the place. In a network of many, frames are led from the tap
    of the sender through an ifb device, and its queue is the place.

    Attributes:
        tap: Of the NIC that sends.
        device: Interface whose queue it is: the tap of the far end, or the ifb.
        ifb: Whether `device` is an ifb that belongs to `tap`.
        sends: The impairment.
    """

    tap: str
    device: str
    ifb: bool
    sends: Impairment


def with_links(spec: LabSpec, records: Iterable[LinkRecord]) -> LabSpec:
    """Return a spec whose NICs are as the records say."""
    said = {(record.node, record.nic): record for record in records}
    if not said:
        return spec
    return replace(
        spec,
        nodes=tuple(
            replace(
                node, nics=tuple(_nic(nic, said.get((node.name, nic.name))) for nic in node.nics)
            )
            for node in spec.nodes
        ),
    )


def _nic(nic: NicSpec, record: LinkRecord | None) -> NicSpec:
    if record is None:
        return nic
    return replace(
        nic,
        down=nic.down if record.down is None else record.down,
        sends=nic.sends if record.sends is None else record.sends,
    )
