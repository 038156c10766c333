"""What `lab fsck` finds: where the kernel, the folders and the inventory do not agree."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mismatch(StrEnum):
    """Kinds of differences."""

    ORPHAN_PROCESS = "orphan-process"  # a QEMU of this root that no node has
    LOST_PROCESS = "lost-process"  # a node has a QEMU that does not live
    ORPHAN_NAMESPACE = "orphan-namespace"
    LOST_NAMESPACE = "lost-namespace"  # a lab runs, and its namespace is not there
    LOST_NETWORK = "lost-network"  # a lab runs, and a bridge of it is not there
    ORPHAN_NETWORK = "orphan-network"  # a bridge that the lab does not have
    LOST_TAP = "lost-tap"  # a QEMU has fewer taps than its node has NICs
    ORPHAN_UPLINK = "orphan-uplink"
    ORPHAN_FOLDER = "orphan-folder"  # disks or sockets of a machine that no node has
    ORPHAN_KEYS = "orphan-keys"
    ORPHAN_IMAGE = "orphan-image"
    LOST_IMAGE = "lost-image"  # files of an image that the inventory has
    ORPHAN_CGROUP = "orphan-cgroup"
    LOST_CGROUP = "lost-cgroup"  # a machine is not in its control group
    EVENT_GAP = "event-gap"
    DATABASE = "database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        name: Of the object: a pid, a namespace, `LAB/NODE`, a path.
        text: What is wrong, in one sentence.
        remedy: What `--repair` does about it; empty when that is for a person to decide, and
            `text` then says what to do.
        repaired: It has been done.
    """

    kind: Mismatch
    name: str
    text: str
    remedy: str = ""
    repaired: bool = False
