#!/usr/bin/env bash
# Three vethloom hosts, from nothing to nothing, on a machine that stays as it was: netlab builds
# them out of network namespaces. Any step that does not do what it says ends the demo with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
. demo/lib.sh
. demo/cluster.sh
. demo/engines.sh

begin

title 'Three hosts on an isolated underlay, an etcd, a netd on each host'
show netlab up --nodes 3 --ipv6 --netd-flag=--docker=unix://RUN/dockerd.sock
eventually 'n3' on n1 net node ls
for n in n1 n2 n3; do
	eventually n3 on $n net node ls --format '{{.Name}}' >/dev/null
done

title 'A network of each driver, made on one host, known to all'
for d in "${drivers[@]}"; do
	show on n1 net network create -d "$d" --ipv6 --subnet "${subnet4[$d]}" --subnet "${subnet6[$d]}" "$d"
done
for d in "${drivers[@]}"; do
	for n in n2 n3; do
		eventually "$d" on $n net network ls --format '{{.Name}}' --filter "name=$d" >/dev/null
	done
done
show on n3 net network ls

title 'Containers on three hosts'
for d in "${drivers[@]}"; do
	publish=()
	[ "$d" != overlay ] || publish=(-p 8080:80)
	show on n1 net run -d --name "on-$d" --network "$d" busybox sleep 3600
	show on n2 net run -d --name "web-$d" --network "$d" "${publish[@]}" busybox httpd -f -p 80 -h /www
	show on n3 net run -d --name "on-$d" --network "$d" busybox sleep 3600
done
show on n2 net run -d --name echo --network overlay busybox nc -ll -p 7007 -e cat
show on n1 net lease ls

title 'They reach each other, by IPv4 and IPv6'
for d in "${drivers[@]}"; do
	reach "$d"
done

title 'What the kernel of n1 knows'
show on n1 ip route
overlay_device=$(on n1 sh -c "ip -o -d link show type vxlan | grep 'master vlb-' | grep -o 'vlx-[0-9a-f]*' | head -1")
vxlan_device=$(on n1 sh -c "ip -o -d link show type vxlan | grep -v 'master vlb-' | grep -o 'vlx-[0-9a-f]*' | head -1")
show on n1 bridge fdb show dev "$overlay_device"
show on n1 ip neigh show dev "$overlay_device"
show on n1 bridge fdb show dev "$vxlan_device"

title 'A published port'
expect 'hello from a container' on n3 curl -sS -m 5 http://192.0.2.2:8080/
expect 'hello from a container' on n3 curl -sS -m 5 'http://[2001:db8::2]:8080/'

title 'netd is killed under an open connection'
open_connection on-overlay "$(address IPAddress n2 echo)"
say_and_hear 'before the kill'
fault kill n1
fault kill n2
say_and_hear 'while neither host has a netd'
fault start n1
fault start n2
say_and_hear 'after both came back'

title 'etcd is killed'
fault kill e1
say_and_hear 'without etcd'
for d in "${drivers[@]}"; do
	reach "$d"
done
show on n3 net run --rm --network overlay busybox hostname -i
note 'a container has started: its address comes from the block that n3 has.'
fault start e1
close_connection

title 'Somebody deletes the VXLAN devices; they come back with their entries'
for dev in "$overlay_device" "$vxlan_device"; do
	show on n1 ip link del "$dev"
done
reach overlay
reach vxlan
for n in n1 n2 n3; do
	eventually '' on $n net diff
done
note 'net diff is empty: every kernel is as the records say.'

title 'One network for Docker on n1, containerd on n2 and vethloom on n3'
engines_begin
start_dockerd
start_containerd
give_images >/dev/null
eventually overlay on n1 docker network ls --filter driver=vethloom
note "netd has brought the networks of the cluster to Docker."
show on n1 docker run -d --name shop --network overlay --dns 10.81.0.1 busybox sh -c "$(serve 'hello from docker')"
show on n2 cat "$work/net.d/10-overlay.conflist"
write_pod cart 'hello from containerd'
show on n2 crictl runp "$work/pod.json"
pod=$(on n2 crictl pods -q --name cart)
pod=${pod:0:12}
show on n2 crictl create "$pod" "$work/container.json" "$work/pod.json"
container=$(on n2 crictl ps -a -q --pod "$pod")
container=${container:0:12}
show on n2 crictl start "$container"
show on n3 net run -d --name desk --network overlay busybox sh -c "$(serve 'hello from vethloom')"
show on n3 net endpoint ls overlay
show_members

title 'They hear each other, by IPv4, by IPv6 and by name'
engines_talk

title 'Everything goes'
stop_engines
show on n1 net rm -f "${drivers[@]/#/on-}"
show on n2 net rm -f "${drivers[@]/#/web-}" echo
show on n3 net rm -f "${drivers[@]/#/on-}" desk
for d in "${drivers[@]}"; do
	eventually "$d" on n1 net network rm "$d"
done
show netlab down
prove_nothing_left
