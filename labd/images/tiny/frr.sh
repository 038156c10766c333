#!/bin/sh
# Start FRR in the router guest; the node's commands then configure it by vtysh.
mkdir -p /var/run/frr /etc/frr
touch /etc/frr/vtysh.conf
[ -e /etc/frr/frr.conf ] || printf 'frr defaults traditional\nservice integrated-vtysh-config\n' >/etc/frr/frr.conf
chown -R frr:frr /var/run/frr /etc/frr
# zebra first: the others wait for its socket, and it is there when zebra has gone to the background.
for name in zebra staticd ospfd ospf6d bgpd ripd isisd bfdd; do
    case $name in
    # What few labs use is started by hand: /usr/lib/frr/bgpd -d
    ospf6d | ripd | isisd | bfdd) continue ;;
    esac
    "/usr/lib/frr/$name" -d -A 127.0.0.1 >>/var/log/frr.log 2>&1 ||
        echo "labd: failed: $name did not start: $(tail -n 1 /var/log/frr.log)"
done
