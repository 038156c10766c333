"""What `lab fsck` finds: where the kernel, the folders and the inventory do not agree."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Sort(StrEnum):
    """Sorts of traces; `Mismatch` has `orphan-SORT` for each but the last two."""

    UPLINK = "uplink"
    SERVER = "server"
    TAP = "tap"
    SOCKET = "socket"
    MOUNT = "mount"
    NAMESPACE = "namespace"  # one without a name
    FOREIGN = "foreign"  # made by somebody else, by a name of labd's


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One thing on the host that a labd of this root has made, or that has the name of one.

    Attributes:
        name: As the host knows it: a pid, an interface, a table, a path.
        owner: Key of the lab or node that it is for, by its name or mark; empty for none, and then
            it is a difference whatever the inventory says.
        text: What it is, for people.
        remedy: What removing it comes to; empty when labd does not remove it.
    """

    sort: Sort
    name: str
    owner: str
    text: str
    remedy: str = ""


class Mismatch(StrEnum):
    """Kinds of differences."""

    ORPHAN_PROCESS = "orphan-process"  # a QEMU of this root that no node has
    LOST_PROCESS = "lost-process"  # a node has a QEMU that does not live
    ORPHAN_NAMESPACE = "orphan-namespace"
    LOST_NAMESPACE = "lost-namespace"  # a lab runs, and its namespace is not there
    LOST_NETWORK = "lost-network"  # a lab runs, and a bridge of it is not there
    ORPHAN_NETWORK = "orphan-network"  # a bridge that the lab does not have
    LOST_TAP = "lost-tap"  # a QEMU has fewer taps than its node has NICs
    PINNED_NAMESPACE = "pinned-namespace"  # it has no name any more, and somebody keeps it
    FOREIGN = "foreign"  # an interface or namespace of somebody else by a name of labd's
    ORPHAN_UPLINK = "orphan-uplink"  # an interface or nftables table on the host of no lab
    LOST_UPLINK = "lost-uplink"  # a lab runs, and its interface or table is not there
    ORPHAN_SERVER = "orphan-server"  # a dnsmasq of no lab
    LOST_SERVER = "lost-server"  # a lab runs, and its dnsmasq does not
    ORPHAN_TAP = "orphan-tap"  # a tap descriptor that no QEMU has
    ORPHAN_SOCKET = "orphan-socket"  # a socket of a machine that no node has
    LOST_SOCKET = "lost-socket"  # a node runs, and its monitor cannot be reached
    ORPHAN_MOUNT = "orphan-mount"  # something is mounted in a machine's folder
    ORPHAN_FOLDER = "orphan-folder"  # disks or sockets of a machine that no node has
    ORPHAN_KEYS = "orphan-keys"
    ORPHAN_IMAGE = "orphan-image"  # files of an image that the inventory has not
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
