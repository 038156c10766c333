#!/bin/sh
# mmdebstrap's customize hook: settings of the guest, and what need not be in it.
set -eu
root=$1
put() { mkdir -p "$root/${1%/*}"; cat >"$root/$1"; }

put etc/cloud/cloud.cfg.d/90_labd.cfg <<'END'
# labd gives each node a seed with the label cidata.
datasource_list: [NoCloud, None]
system_info:
  network: {renderers: [networkd]}
disable_root: false
# Keys stay when the instance id changes, which it does with the template. Others take an emulated
# CPU seconds to make.
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
apt: {preserve_sources_list: true}
locale: false
manage_etc_hosts: localhost
# The disk has no partition that could grow; its file system does.
growpart: {mode: "off"}
resize_rootfs: noblock
END

put etc/systemd/system/labd-ready.service <<'END'
[Unit]
Description=Tell labd that the machine is ready
After=cloud-final.service ssh.service systemd-user-sessions.service
[Service]
Type=oneshot
ExecStart=/usr/local/lib/labd/ready
[Install]
# Not of multi-user.target, after which cloud-init does its last stage.
WantedBy=cloud-init.target
END
put usr/local/lib/labd/ready <<'END'
#!/bin/sh
# On the serial line, where labd reads it.
line=/dev/ttyS0
errors=$(python3 -c 'import json
for error in json.load(open("/run/cloud-init/result.json"))["v1"]["errors"]: print(error)' 2>&1)
[ -z "$errors" ] || printf '\r\nlabd: failed: cloud-init: %s\r\n' "$(echo $errors)" >$line
printf '\r\nlabd: ready %s\r\n' "$(hostname)" >$line
END
chmod 755 "$root/usr/local/lib/labd/ready"

# The serial line is labd's, who lets in whom it lets: a root shell, as image tiny has.
put etc/systemd/system/serial-getty@ttyS0.service.d/labd.conf <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I $TERM
END
# One network card without an address must not hold the start for two minutes.
put etc/systemd/system/systemd-networkd-wait-online.service.d/labd.conf <<'END'
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=20
END
put etc/fstab <<'END'
LABEL=labd-root / ext4 errors=remount-ro 0 1
END
put etc/hosts <<'END'
127.0.0.1 localhost
127.0.1.1 debian
::1 localhost ip6-localhost ip6-loopback
END
echo debian >"$root/etc/hostname"
: >"$root/etc/machine-id"

chroot "$root" systemctl --quiet enable labd-ready systemd-networkd systemd-resolved ssh
# What a machine of an hour does not need to do behind one's back.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer man-db.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# Each node makes its own.
rm -f "$root"/etc/ssh/ssh_host_*
rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/apt/apt.conf.d/99mmdebstrap" \
    "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log \
    "$root"/var/log/apt "$root"/var/cache/debconf/*-old
