#!/usr/bin/env bash
# One vethloom node, from nothing to nothing, on a machine that stays as it was:
# netd runs in a network namespace of its own, a second one plays a client elsewhere.
# Any step that does not do what it says ends the demo with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
. demo/lib.sh
. demo/node.sh

begin

title 'A host for netd, and a client outside, joined by a cable'
make_namespace "$host_namespace"
make_namespace "$client_namespace"
show ip link add uplink netns "$host_namespace" type veth peer name eth0 netns "$client_namespace"
for cable in "$host_namespace uplink 1" "$client_namespace eth0 2"; do
	read -r namespace link number <<<"$cable"
	ip -n "$namespace" addr add "192.0.2.$number/24" dev "$link"
	ip -n "$namespace" addr add "2001:db8::$number/64" dev "$link" nodad
	ip -n "$namespace" link set "$link" up
	ip -n "$namespace" link set lo up
done
note 'host 192.0.2.1, 2001:db8::1; client 192.0.2.2, 2001:db8::2. The client has no route to the containers.'

title 'netd starts'
start_netd
show net version
show net doctor

title 'A bridge network with IPv4 and IPv6'
show net network create --ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64 demo
show net network ls

title 'An image from a root filesystem: busybox, packed here and now'
make_rootfs "$work/rootfs"
step 'tar -C rootfs -c . | net import - busybox' import_rootfs
show net images

title 'Three containers'
show net run -d --name web --network demo -p 8080:80 -v "$work/www:/www:ro" busybox httpd -f -p 80 -h /www
show net run -d --name echo --network demo -p 7007:7007 busybox nc -ll -p 7007 -e cat
show net run -d --name alice --network demo busybox sleep 3600
show net ps
web4=$(address IPAddress web)
web6=$(address GlobalIPv6Address web)

title 'They reach each other'
show net exec alice ip addr show eth0
show net exec alice ping -c 3 -i 0.2 -W 2 "$web4"
show net exec alice ping -6 -c 3 -i 0.2 -W 2 "$web6"

title 'A client outside reaches the published port'
expect 'hello from a container' outside curl -sS -m 5 http://192.0.2.1:8080/
expect 'hello from a container' outside curl -sS -m 5 'http://[2001:db8::1]:8080/'
note 'and so does the host itself, on its loopback addresses:'
expect 'hello from a container' inside curl -sS -m 5 http://127.0.0.1:8080/
expect 'hello from a container' inside curl -sS -m 5 'http://[::1]:8080/'

title "The kernel's own tables, on the host"
show inside ip link show type bridge
show inside bridge link
show inside ip -brief addr
show inside ip route
show inside ip -6 route
show inside nft list table inet vethloom

title 'netd is killed under an open connection, and comes back'
open_connection 192.0.2.1 7007
say_and_hear 'before the kill'
kill_netd
say_and_hear 'while there is no netd'
start_netd
say_and_hear 'after netd came back'
close_connection
show net ps
show net diff
note 'net diff is empty: the kernel is as the records say.'

title 'Somebody breaks the firewall; it is repaired'
show inside nft flush ruleset
step 'until the published port answers again' until_answer 192.0.2.1 8080
show net diff

title 'Everything goes'
show net rm -f web echo alice
show net network rm demo
show net rmi busybox
show net diff
prove_host_clean
stop_netd
remove_namespaces
prove_nothing_left
