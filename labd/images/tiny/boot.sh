#!/bin/sh
# Boot of the tiny guest: busybox init runs this once (::sysinit), then respawns a root shell on ttyS0.
#
# What this node is comes as text in fw_cfg item opt/io.labd/config, one directive a line, made by
# labd.model.guestconfig. Values are only ever words of a command, never code: nothing is eval'ed,
# globbing is off, and an unknown directive is told and skipped.
set -f
export PATH=/bin:/usr/bin:/usr/sbin:/sbin HOME=/root TERM=linux
TAB=$(printf '\t')
CONFIG=/sys/firmware/qemu_fw_cfg/by_name/opt/io.labd/config/raw
NAME=tiny

say() { printf 'labd: %s\n' "$*"; }

# try WORDS...: run a command, and on failure say which one on the console; the boot goes on, for a
# node that is half up can be looked into, and one that stopped here cannot.
try() { "$@" 2>/run/err || say "failed: $*: $(head -n 1 /run/err)"; }

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o mode=620 devpts /dev/pts
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mkdir -p /tmp
    mount -t tmpfs -o mode=1777 tmpfs /tmp  # the root file system is nearly full
}

# The list is in order of dependencies; a module whose hardware is absent may refuse, and that is fine.
load_modules() {
    # Addresses are unique by construction, so they need not stay tentative for a second. Set before
    # the cards are there, for they inherit it.
    printf 0 >/proc/sys/net/ipv6/conf/default/accept_dad
    printf 0 >/proc/sys/net/ipv6/conf/all/accept_dad
    while read -r module; do insmod "$module" 2>/dev/null; done </etc/labd/modules
}

# interface_of MAC: print the name of the interface that has this address.
interface_of() {
    for found in $(ls /sys/class/net); do
        read -r mac <"/sys/class/net/$found/address" || continue
        [ "$mac" = "$1" ] && printf '%s' "$found" && return 0
    done
    return 1
}

# Renaming takes two passes, for eth0 may have to become eth1 while eth1 becomes eth0.
rename_interfaces() {
    number=0
    while read -r word mac name; do
        [ "$word" = nic ] || continue
        if found=$(interface_of "$mac"); then
            number=$((number + 1))
            try ip link set dev "$found" name "labd-$number"
        else
            say "failed: no interface with MAC $mac for $name (the kernel has virtio cards only)"
        fi
    done <"$1"
    while read -r word mac name; do
        [ "$word" = nic ] || continue
        found=$(interface_of "$mac") || continue
        try ip link set dev "$found" name "$name"
        try ip link set dev "$name" up
    done <"$1"
}

route_via() { # DESTINATION GATEWAY [dev NAME]
    to=$1 via=$2
    shift 2
    case $via in
    *:*) try ip -6 route add "$to" via "$via" "$@" ;;
    *) try ip route add "$to" via "$via" "$@" ;;
    esac
}

# It asks until it is answered, and keeps what it gets; a boot waits three seconds for it.
ask_dhcp() {
    [ -d /sys/class/net/"$1" ] || return
    udhcpc -i "$1" -s /etc/labd/dhcp -x hostname:"$NAME" -O search -O staticroutes -t 3 -T 1 -A 5 -b \
        >>/var/log/udhcpc.log 2>&1 </dev/null || say "failed: udhcpc on $1: exit status $?"
}

apply() { # one directive
    case $1 in
    hostname) NAME=$2; hostname "$2"; printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost\n' "$2" >/etc/hosts ;;
    nic) ;;
    mtu) try ip link set dev "$2" mtu "$3" ;;
    address) try ip addr add "$3" dev "$2" ;;
    gateway) route_via default "$3" dev "$2" ;;
    route) route_via "$2" "$3" ;;
    forwarding) forwarding=1 ;;
    nameserver | search)
        printf '%s %s\n' "$1" "$2" >>/run/resolv.static # /etc/labd/dhcp keeps it
        printf '%s %s\n' "$1" "$2" >>/etc/resolv.conf
        ;;
    dhcp) ask_dhcp "$2" ;;
    host) printf '%s\t%s\n' "$3" "$2" >>/etc/hosts ;;
    '' | '#'*) ;;
    *) say "failed: unknown directive $1; this image is older than labd: rebuild it" ;;
    esac
}

configure() {
    forwarding=
    rename_interfaces "$1"
    while read -r line; do
        case $line in
        run"$TAB"*) continue ;;
        authorized-key\ *) printf '%s\n' "${line#authorized-key }" >>/root/.ssh/authorized_keys ;;
        # shellcheck disable=SC2086 # the directive is split into its words on purpose
        *) apply $line ;;
        esac
    done <"$1"
    if [ -n "$forwarding" ]; then
        printf 1 >/proc/sys/net/ipv4/ip_forward
        printf 1 >/proc/sys/net/ipv6/conf/all/forwarding
    fi
}

# A command is waited for, so that the next one can build on it; one that stays (a server in the
# foreground) is left running after three seconds.
run_commands() {
    while IFS= read -r line; do
        case $line in run"$TAB"*) ;; *) continue ;; esac
        IFS=$TAB
        # shellcheck disable=SC2086 # arguments are separated by tabs
        set -- ${line#run"$TAB"}
        unset IFS
        run_one "$@" </dev/null
    done <"$1"
}

run_one() {
    "$@" >>/var/log/run.log 2>&1 &
    child=$! ticks=0
    while [ -d "/proc/$child" ] && [ "$ticks" -lt 60 ]; do
        usleep 50000
        ticks=$((ticks + 1))
        read -r _ _ state _ 2>/dev/null <"/proc/$child/stat" || break
        [ "$state" = Z ] && break
    done
    [ "$ticks" -ge 60 ] && return
    wait "$child"
    status=$?
    [ "$status" -eq 0 ] || say "failed: run $*: exit status $status: $(tail -n 1 /var/log/run.log)"
}

start_agent() {
    [ -e /sys/class/virtio-ports ] || return
    mkdir -p /dev/virtio-ports
    ticks=0
    # Ports are announced by the host over a queue, a little after the driver is there.
    while [ "$ticks" -lt 20 ]; do
        for port in $(ls /sys/class/virtio-ports); do
            read -r name 2>/dev/null <"/sys/class/virtio-ports/$port/name" || continue
            ln -sf "../$port" "/dev/virtio-ports/$name"
        done
        if [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ]; then
            qemu-ga --daemonize --method=virtio-serial --path=/dev/virtio-ports/org.qemu.guest_agent.0 \
                --pidfile=/run/qemu-ga.pid --logfile=/var/log/qemu-ga.log
            return
        fi
        [ -n "$(ls /sys/bus/virtio/drivers/virtio_console | grep '^virtio')" ] || return
        usleep 20000
        ticks=$((ticks + 1))
    done
}

mount_all
load_modules
ip link set dev lo up
hostname "$NAME"
[ -r "$CONFIG" ] && cat "$CONFIG" >/run/config && configure /run/config
[ -e /dev/input/event0 ] && acpid -l /var/log/acpid.log
dropbear -R -s -p 22 2>/var/log/dropbear.log
start_agent
[ -x /etc/labd/late ] && /etc/labd/late
[ -e /run/config ] && run_commands /run/config
say "ready $NAME"
