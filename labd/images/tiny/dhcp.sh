#!/bin/sh
# What udhcpc calls with what it was told (busybox, examples/udhcp/simple.script). Values come from the
# network: they are only ever words of a command, and globbing is off.
set -f
export PATH=/bin:/usr/bin:/usr/sbin:/sbin
OWN="/run/dhcp-$interface"

resolvers() { # WORDS...: what this card's server says; what the template says comes last
    rm -f "/run/resolv.dhcp-$interface"
    [ $# -eq 0 ] || printf '%s %s\n' "$@" >"/run/resolv.dhcp-$interface"
    for part in $(ls /run | grep '^resolv\.dhcp-') resolv.static; do
        [ -r "/run/$part" ] && cat "/run/$part"
    done >/run/resolv.new
    cat /run/resolv.new >/etc/resolv.conf
}

case $1 in
deconfig)
    [ -r "$OWN" ] && read -r old <"$OWN" && ip addr del "$old" dev "$interface" 2>/dev/null
    rm -f "$OWN"
    ip link set dev "$interface" up
    resolvers
    ;;
bound | renew)
    fresh="$ip/${mask:-24}"
    [ -r "$OWN" ] && read -r old <"$OWN" && [ "$old" != "$fresh" ] && ip addr del "$old" dev "$interface" 2>/dev/null
    ip addr replace "$fresh" broadcast "${broadcast:-+}" dev "$interface"
    printf '%s\n' "$fresh" >"$OWN"
    for via in $router; do
        ip route replace default via "$via" dev "$interface"
        break
    done
    set --
    for server in $dns; do set -- "$@" nameserver "$server"; done
    [ -z "${search:-$domain}" ] || set -- "$@" search "${search:-$domain}"
    resolvers "$@"
    ;;
esac
