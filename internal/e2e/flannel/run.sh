#!/usr/bin/env bash
# vethloom and flanneld as members of one network: a flanneld in a network of vethloom's, vethloom in a
# network of flannel's, hosts that change from the one to the other and back. With containers on both
# sides, for each backend (or those named as arguments). Needs flanneld on PATH or in FLANNELD, else it ends with 2.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. internal/e2e/flannel/lib.sh

backends=("$@")
[ $# -gt 0 ] || backends=(vxlan udp host-gw)

# ours BACKEND: a network that vethloom made; n3 is a host of flannel's, then of vethloom's, then of flannel's again.
ours() {
	local backend=$1 prefix subnet subnet6 mac network=10.120.0.0/16 network6=fd00:120::/48
	local -a six=()
	dual "$backend" && six=(--ipv6 --subnet "$network6")
	title "$backend: flanneld on n3 joins a network of vethloom's"
	netlab fault stop n3
	host_bare n3
	on n1 net network create -d "$backend" --subnet $network "${six[@]}" web >/dev/null
	eventually 'n2 has the network' on n2 net network inspect web
	container n1 web
	container n2 web
	prefix=$(on n1 net network inspect -f '{{.Cluster.LeasePrefix}}' web)
	flannel_start n3 "$prefix"
	subnet=$(field n3 FLANNEL_SUBNET)
	subnet6=$(field n3 FLANNEL_IPV6_SUBNET)
	dual "$backend" && [[ $subnet6 != fd00:120:* ]] && fail "flanneld has no IPv6 subnet: $subnet6"
	pod_up n3
	ways web n1 n3
	ways web n2 n3
	tables "$backend" n1 n3
	eventually 'net lease ls shows it' has '(other)' on n1 net lease ls
	lacks ago on n1 net lease ls || fail 'the lease of a living flanneld is said to be over'

	title "$backend: flanneld and netd start anew"
	mac=$(vtep "$prefix" n3)
	flannel_stop n3
	on n3 ip link del flannel.1 2>/dev/null || true
	on n3 ip link del flannel-v6.1 2>/dev/null || true
	flannel_start n3 "$prefix"
	equal "$(field n3 FLANNEL_SUBNET) $(field n3 FLANNEL_IPV6_SUBNET)" "$subnet $subnet6" ||
		fail 'flanneld has another subnet'
	if [ "$backend" = vxlan ]; then
		[ "$(vtep "$prefix" n3)" != "$mac" ] || fail "flannel.1 still has $mac"
		eventually 'n1 follows the new hardware address' has "$(vtep "$prefix" n3)" on n1 bridge fdb show
		lacks "$mac" on n1 bridge fdb show || fail "n1 still has $mac"
		lacks "$mac" on n1 ip neigh || fail "n1 still has $mac"
	fi
	ways web n1 n3
	netlab fault kill n1
	netlab fault start n1
	ways web n1 n3

	title "$backend: netd starts beside the flanneld of n3, and waits"
	too_early n3 web "$prefix"

	title "$backend: n3 changes to vethloom"
	pod_down n3
	flannel_stop n3
	case $backend in
	vxlan) clash n3 'ip link del flannel.1' ;;
	host-gw) clash n3 'ip route del' ;;
	esac
	flannel_clean n3 $network $network6
	takes_over n3 web "${subnet%.1/*}.0/24" "${subnet6%1/*}"
	ways web n1 n3
	ways web n2 n3
	tables "$backend" n1 n3

	title "$backend: n3 changes back to flannel"
	on n3 net rm -f c-n3-web >/dev/null
	netlab fault stop n3
	host_bare n3
	flannel_start n3 "$prefix"
	equal "$(field n3 FLANNEL_SUBNET) $(field n3 FLANNEL_IPV6_SUBNET)" "$subnet $subnet6" ||
		fail 'flanneld has another subnet'
	pod_up n3
	ways web n1 n3
	ways web n2 n3
	too_early n3 web "$prefix"

	pod_down n3
	flannel_stop n3
	flannel_clean n3 $network $network6
	on n1 net rm -f c-n1-web >/dev/null
	on n2 net rm -f c-n2-web >/dev/null
	on n1 net network rm web >/dev/null
	equal '' "$(on n1 etcdctl get --prefix --keys-only "$prefix")" || fail 'the directory is still there'
	netlab fault start n3
}

# theirs BACKEND: a network that flannel has on n2 and n3; n1 joins it, then n2 and n3 change to vethloom one by one.
theirs() {
	local backend=$1 prefix=/coreos.com/network network=10.130.0.0/16 network6=fd00:130::/48 host more=''
	local -A subnets=() subnets6=()
	dual "$backend" && more="\"EnableIPv6\": true, \"IPv6Network\": \"$network6\", "
	title "$backend: vethloom on n1 joins a network of flannel's"
	on n1 etcdctl put $prefix/config "{\"Network\": \"$network\", $more\"Backend\": {\"Type\": \"$backend\"}}" \
		>/dev/null
	for host in n2 n3; do
		netlab fault stop $host
		host_bare $host
		flannel_start $host $prefix
		subnets[$host]=$(field $host FLANNEL_SUBNET)
		subnets6[$host]=$(field $host FLANNEL_IPV6_SUBNET)
		pod_up $host
	done
	ways pods n2 n3
	netlab fault start n2
	! on n2 net network create -d "$backend" -o flannel.prefix=$prefix pods >"$work/refused" 2>&1 ||
		fail 'it is joined on a host whose flanneld runs'
	has 'flanneld (pid' cat "$work/refused"
	sed 's/^/       /' "$work/refused"
	netlab fault stop n2
	host_bare n2
	ways pods n2 n3
	on n1 net network create -d "$backend" -o flannel.prefix=$prefix pods >/dev/null
	container n1 pods
	ways pods n1 n2
	ways pods n1 n3
	tables "$backend" n1 n2
	show n1 net lease ls

	for host in n2 n3; do
		title "$backend: $host changes to vethloom"
		pod_down $host
		flannel_stop $host
		flannel_clean $host $network $network6
		takes_over $host pods "${subnets[$host]%.1/*}.0/24" "${subnets6[$host]%1/*}"
		ways pods n1 $host
		ways pods n2 n3
	done
	lacks '(other)' on n1 net lease ls || fail 'a flannel lease is left'
	tick 'no lease of flannel is left'

	for host in n1 n2 n3; do on $host net rm -f c-$host-pods >/dev/null; done
	on n1 net network rm pods >/dev/null
	has "$network" on n1 etcdctl get $prefix/config || fail "flannel's config is gone with the network"
	tick "flannel's config is left alone by net network rm"
	on n1 etcdctl del --prefix $prefix >/dev/null
}

# dual BACKEND: flannel's backend has IPv6.
dual() { [ "$1" != udp ]; }

# takes_over HOST NETWORK SUBNET SUBNET6: netd starts and has the subnets that flanneld had.
takes_over() {
	netlab fault start "$1"
	eventually "netd on $1 has $3" has "$3" on "$1" net network inspect -f '{{.Cluster.Lease}}' "$2"
	[ -z "$4" ] || eventually "netd on $1 has $4" has "$4" on "$1" net network inspect -f '{{.Cluster.Lease}}' "$2"
	eventually 'its kernel is as the records say' equal_output '' on "$1" net diff
	container "$1" "$2"
}
equal_output() { equal "$1" "$("${@:2}")"; }

# too_early HOST NETWORK PREFIX: netd says that flanneld runs, and leaves its lease and its traffic alone.
too_early() {
	local lease
	lease=$(lease_of "$3" "$1")
	netlab fault start "$1"
	eventually "netd on $1 says that flanneld runs" has 'flanneld (pid' on "$1" net status
	show "$1" net status
	equal "$lease" "$(lease_of "$3" "$1")" || fail "netd took the lease of a flanneld that runs"
	ways "$2" n1 "$1"
	netlab fault stop "$1"
	host_bare "$1"
}

# clash HOST TEXT: netd starts beside what flannel has there, and says what to do.
clash() {
	netlab fault start "$1"
	eventually "netd on $1 says: $2" has "$2" on "$1" net status
	netlab fault stop "$1"
}

# host_bare HOST: what netd keeps for its return is removed, as when vethloom is uninstalled.
host_bare() {
	local link
	for link in $(on "$1" ip -o link show | grep -o ' vl[a-z]*-[0-9a-f]*' || true); do
		on "$1" ip link del "$link" 2>/dev/null || true
	done
	on "$1" ip route flush proto 117
	on "$1" ip -6 route flush proto 117
	for link in $(on "$1" nft list tables | awk '/vethloom/ {print $2 ":" $3}'); do
		on "$1" nft delete table "${link%:*}" "${link#*:}"
	done
}

# lease_of PREFIX HOST: what etcd has of the host.
lease_of() {
	local address
	address=$(on "$2" printenv "$2")
	on n1 etcdctl get --prefix "$1/subnets" --print-value-only | jq -c "select(.PublicIP == \"$address\")"
}
vtep() { lease_of "$@" | jq -r '.BackendData.VtepMAC // empty'; } # the hardware address in it

tables() {
	local host
	for host in "$2" "$3"; do
		show "$host" ip route
		! dual "$1" || show "$host" ip -6 route show root fd00::/8
		[ "$1" = vxlan ] || continue
		# shellcheck disable=SC2016 # the inner shell expands it
		show "$host" sh -c \
			'for d in $(ip -o link show type vxlan | cut -d: -f2); do
				ip neigh show dev $d; bridge fdb show dev $d; done'
	done
}

begin
netlab up --nodes 3 --ipv6 >/dev/null
for backend in "${backends[@]}"; do
	most=()
	# The header around IPv6 is 70 bytes, though flannel's containers have 1450.
	[ "$backend" != vxlan ] || most=([48]=1430)
	ours "$backend"
	theirs "$backend"
done
title 'all of it worked'
