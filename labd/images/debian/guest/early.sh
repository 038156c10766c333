#!/bin/sh
# mmdebstrap's essential hook: what must be there before the kernel's package makes its initramfs.
set -eu
root=$1
mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/usr/share/initramfs-tools/modules.d"
cat >"$root/etc/initramfs-tools/conf.d/labd" <<'END'
# Just what QEMU's machines have: a third of the size, and of the time to unpack it.
MODULES=list
COMPRESS=zstd
RESUME=none
END
cat >"$root/usr/share/initramfs-tools/modules.d/labd" <<'END'
virtio_pci
virtio_mmio
virtio_blk
virtio_scsi
sd_mod
ahci
ata_piix
ext4
END
# No services start while packages are installed.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
