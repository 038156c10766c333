"""What labs are made from: images, and profiles that name them with a machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labd.model.specs import Firmware


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A VM template of the catalogue. `memory` and `disk` in bytes."""

    name: str
    image: str
    vcpus: int = 1
    memory: int = 256 << 20
    disk: int | None = None
    firmware: Firmware = Firmware.BIOS
    description: str = ""


class ImageFormat(StrEnum):
    """What an image is. `kernel` is a kernel with an optional initramfs."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ISO = "iso"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An immutable entry of the image store.

    Attributes:
        name: Unique.
        format: What it is.
        digest: `sha256:` + 64 hex digits, of the file, or of disk, kernel and initramfs one after
            the other.
        size: Bytes on disk, all files together.
        virtual_size: Bytes that the guest sees; 0 for kernel images.
        files: Names inside the store's folder for this digest: `disk`, or `kernel` and `initrd`, or
            all three: then QEMU starts the kernel, whose root the disk is.
        cmdline: Kernel command line that the image itself needs.
        ready_pattern: Console pattern by which a guest of this image says that it is ready.
        agent: The image runs the QEMU guest agent.
        cloud_init: The image runs cloud-init, so each node gets a seed.
        created: RFC 3339 UTC.
        source: Where it came from, for people.
    """

    name: str
    format: ImageFormat
    digest: str
    size: int
    virtual_size: int = 0
    files: tuple[str, ...] = ()
    cmdline: str = ""
    ready_pattern: str = ""
    agent: bool = False
    cloud_init: bool = False
    created: str = ""
    source: str = ""

    @property
    def has_disk(self) -> bool:
        """Nodes get an overlay on it as their root disk."""
        return self.format in {ImageFormat.RAW, ImageFormat.QCOW2}

    @property
    def has_kernel(self) -> bool:
        """QEMU starts its kernel itself."""
        return "kernel" in self.files
