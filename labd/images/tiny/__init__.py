"""The `tiny` recipe: a Linux guest that boots in two emulated seconds, made of Debian's packages.

Kernel (linux-image-cloud), busybox, dropbear, qemu-guest-agent, iperf3, tcpdump and nftables,
packed into one initramfs. It configures itself from fw_cfg item `opt/io.labd/config` (see
`labd.model.guestconfig`) and then says `labd: ready <hostname>` on its serial line.
`python -m labd.images.tiny --cache DIR` builds it by hand.
"""

from __future__ import annotations

from labd.images.tiny.flavour import FLAVOURS, ROUTER, TINY, Flavour
from labd.images.tiny.recipe import CMDLINE, READY_PATTERN, Built, build

__all__ = ["CMDLINE", "FLAVOURS", "READY_PATTERN", "ROUTER", "TINY", "Built", "Flavour", "build"]
