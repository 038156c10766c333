"""Names of disks in storage classes, and how a machine gets at one. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

LOCAL: Final = "local"  # the storage class that is always there, in the state folder


class DiskKind(StrEnum):
    """What a disk is for. Rows hold these words, so a kind is only ever added."""

    MACHINE = "machine"  # of one machine, which writes it, or a layer of it that it has written
    IMAGE = "image"  # of the image store, by digest
    LAYER = "layer"  # of a checkpoint, by digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRef:
    """Names a disk in a storage class; where it lies is known to the driver of the class alone.

    Attributes:
        kind: What it is for.
        key: The machine's key; of images and layers the digest, 64 hex digits.
        name: Which of the machine's, such as `root-0123456789ab.qcow2`; empty for the others.
        storage: Name of the storage class.
    """

    kind: DiskKind
    key: str
    name: str = ""
    storage: str = LOCAL

    @property
    def stem(self) -> str:
        """The part of the name that stays for the life of a disk: what is before the first dot."""
        return self.name.partition(".")[0]

    def beside(self, name: str) -> DiskRef:
        """Return another disk of the same machine, in the same class."""
        return replace(self, name=name)

    def __str__(self) -> str:
        """Return it for messages: `local: machine k1/root.qcow2`."""
        return f"{self.storage}: {self.kind} {'/'.join(filter(None, (self.key[:12], self.name)))}"


NO_DISK: Final = DiskRef(kind=DiskKind.MACHINE, key="")  # of a drive without a medium


def image_disk(digest: str) -> DiskRef:
    """Return the disk of an image of this digest, `sha256:` and 64 hex digits."""
    return DiskRef(kind=DiskKind.IMAGE, key=digest.removeprefix("sha256:"))


def layer_disk(digest: str) -> DiskRef:
    """Return a layer of a checkpoint by its digest."""
    return DiskRef(kind=DiskKind.LAYER, key=digest.removeprefix("sha256:"))


def digest_of_layer(ref: DiskRef) -> str:
    """Return the digest of a disk that `layer_disk` named; empty for any other."""
    return f"sha256:{ref.key}" if ref.kind is DiskKind.LAYER else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAttachment:
    """How a machine gets at the bytes of a disk: a protocol node of QEMU's block layer, as data.

    Attributes:
        driver: Of the node, such as `file`.
        options: Its other properties (`-blockdev`), without name and without what says whether it
            may be written.
        fd: Open descriptor, which is the caller's; the machine finds it as a descriptor set. None
            for a driver that opens what `options` name.
    """

    driver: str = "file"
    options: Mapping[str, object] = field(default_factory=dict)
    fd: int | None = None
