"""The `debian` recipe: a Debian machine with systemd and cloud-init, made of apt's packages.

mmdebstrap makes the tree, mke2fs puts it into an ext4 file system without mounting anything, and
qemu-img packs that as qcow2. Kernel and initramfs lie beside the disk, so that QEMU starts them
itself and no bootloader is needed. `python -m labd.images.debian --cache DIR` builds it by hand.
"""

from __future__ import annotations

from labd.images.debian.recipe import CMDLINE, READY_PATTERN, Built, build

__all__ = ["CMDLINE", "READY_PATTERN", "Built", "build"]
