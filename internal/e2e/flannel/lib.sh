# shellcheck shell=bash
# What internal/e2e/flannel/run.sh is made of. Sourced, not run.

lab=flannel-$$ bin=${VETHLOOM_BIN:-$PWD/bin} flanneld=${FLANNELD:-$(command -v flanneld || true)}
work=''
PATH=$bin:$PATH:/usr/sbin:/sbin
declare -A flannel_pid=() pod_pid=() pod_address=()
declare -A most=() # bytes of a packet on the way, by the bytes of the IP and ICMP headers; none: what the ends take

fail() {
	printf 'flannel: %s\n' "$*" >&2
	exit 1
}
title() { printf '\n== %s\n' "$*"; }
tick() { printf '   ok  %s\n' "$*"; }

netlab() { "$bin/netlab" --name "$lab" "$@"; }
on() {
	local host=$1
	shift
	netlab exec "$host" -- "$@"
}

# show HOST COMMAND…: what the kernel or net says there.
show() {
	printf '   %s$ %s\n' "$1" "${*:2}"
	on "$@" </dev/null 2>&1 | sed 's/^/       /'
}

begin() {
	if [ -z "$flanneld" ]; then
		echo 'flanneld is not here, so nothing was tried: put it on PATH or name it in FLANNELD' >&2
		exit 2
	fi
	[ -x "$flanneld" ] || fail "FLANNELD=$flanneld is no program"
	[ "$(id -u)" = 0 ] || fail 'network namespaces need root'
	local b
	for b in netd net net-shim netlab; do
		[ -x "$bin/$b" ] || fail "$bin/$b is missing: make build"
	done
	for b in etcd etcdctl sha256sum socat jq nft bridge; do
		command -v "$b" >/dev/null || fail "$b is missing"
	done
	work=$(mktemp -d)
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	head -c 4000000 /dev/urandom >"$work/sent"
	printf 'vethloom %s, flanneld %s\n' "$("$bin/netlab" --version 2>/dev/null || git describe --always)" \
		"$("$flanneld" -version 2>&1 || true)"
}

cleanup() {
	local status=$? name
	set +e
	if [ "$status" != 0 ] && [ -n "${KEEP:-}" ]; then
		echo "kept: netlab --name $lab, $work" >&2
		return
	fi
	for name in "${!pod_pid[@]}"; do pod_down "$name"; done
	for name in "${!flannel_pid[@]}"; do flannel_stop "$name"; done
	netlab down >/dev/null 2>&1
	rm -rf "$work"
}

# eventually WHAT COMMAND…: COMMAND succeeds within a minute.
eventually() {
	local what=$1 end=$((SECONDS + 60))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $end ]; then
			echo "$* says:" >&2
			"$@" >&2
			fail "$what: not within a minute"
		fi
		sleep 0.1
	done
	tick "$what"
}
equal() { [ "$1" = "$2" ] || { echo "$1, not $2"; return 1; }; }
has() { local text; text=$("${@:2}" 2>&1); [[ $text == *"$1"* ]] || { echo "no \"$1\" in: $text"; return 1; }; }
lacks() { ! has "$@" >/dev/null; }

# flannel_start HOST PREFIX: a flanneld, and what subnet it has.
flannel_start() {
	local host=$1 prefix=$2 endpoint
	endpoint=http://$(on "$host" printenv e1):2379
	rm -f "$work/$host.env"
	# What holds a tunnel for the next netd gives its port back when none has come.
	eventually "no tunnel is held on $host" lacks :8285 on "$host" ss -Hlnu
	# shellcheck disable=SC2016 # the inner shell expands it
	netlab exec "$host" -- sh -c 'echo $$ >"$0"; exec "$@"' "$work/$host.pid" "$flanneld" \
		-etcd-endpoints="$endpoint" -etcd-prefix="$prefix" \
		-iface=eth0 -ip-masq=false -subnet-file="$work/$host.env" -healthz-port=0 >>"$work/$host.log" 2>&1 </dev/null &
	local end=$((SECONDS + 30))
	until [ -s "$work/$host.env" ]; do
		[ $SECONDS -lt $end ] || { tail "$work/$host.log" >&2; fail "flanneld on $host got no subnet"; }
		sleep 0.1
	done
	flannel_pid[$host]=$(cat "$work/$host.pid")
	tick "flanneld on $host has $(field "$host" FLANNEL_SUBNET), MTU $(field "$host" FLANNEL_MTU)"
}
flannel_stop() {
	[ -n "${flannel_pid[$1]:-}" ] || return 0
	kill "${flannel_pid[$1]}" 2>/dev/null || true
	while kill -0 "${flannel_pid[$1]}" 2>/dev/null; do sleep 0.05; done
	unset "flannel_pid[$1]"
}

# flannel_clean HOST NETWORK NETWORK6: what flanneld leaves behind when it ends, and who migrates a host removes.
flannel_clean() {
	local link
	for link in flannel.1 flannel-v6.1 flannel0; do
		on "$1" ip link del "$link" 2>/dev/null || true
	done
	on "$1" ip route flush root "$2" proto boot
	on "$1" ip -6 route flush root "$3" proto boot
}
field() { sed -n "s/^$2=//p" "$work/$1.env"; }

# pod_up HOST: a container as flannel's users have it: a bridge with the subnet, a network namespace behind it.
pod_up() {
	local host=$1 gateway gateway6 mtu address
	gateway=$(field "$host" FLANNEL_SUBNET)
	gateway6=$(field "$host" FLANNEL_IPV6_SUBNET)
	mtu=$(field "$host" FLANNEL_MTU)
	address=${gateway%.1/*}.2
	# shellcheck disable=SC2016 # the inner shell expands it
	netlab exec "$host" -- unshare -n sh -c 'echo $$ >"$0"; exec sleep 3600' "$work/$host.pod" >/dev/null 2>&1 \
		</dev/null &
	until [ -s "$work/$host.pod" ]; do sleep 0.05; done
	pod_pid[$host]=$(cat "$work/$host.pod")
	pod_address[$host]=$address
	on "$host" ip link add cni0 mtu "$mtu" type bridge
	on "$host" ip addr add "$gateway" dev cni0
	on "$host" ip link add pod0 mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "${pod_pid[$host]}"
	on "$host" ip link set pod0 master cni0 up
	on "$host" ip link set cni0 up
	in_pod "$host" ip link set lo up
	in_pod "$host" ip addr add "$address/${gateway#*/}" dev eth0
	in_pod "$host" ip link set eth0 up
	in_pod "$host" ip route add default via "${gateway%/*}"
	[ -n "$gateway6" ] || return 0
	pod_address[$host]+=" ${gateway6%::1/*}::2"
	on "$host" ip addr add "$gateway6" dev cni0 nodad
	on "$host" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
	in_pod "$host" ip addr add "${gateway6%::1/*}::2/${gateway6#*/}" dev eth0 nodad
	in_pod "$host" ip route add default via "${gateway6%/*}"
}
pod_down() {
	[ -n "${pod_pid[$1]:-}" ] || return 0
	kill "${pod_pid[$1]}" 2>/dev/null || true
	on "$1" ip link del cni0 2>/dev/null || true
	on "$1" ip link del pod0 2>/dev/null || true
	rm -f "$work/$1.pod"
	unset "pod_pid[$1]" "pod_address[$1]"
}
in_pod() { nsenter -t "${pod_pid[$1]}" -n "${@:2}"; }

# container HOST NETWORK: one of vethloom's, on that host.
container() { on "$1" net run -d --name "c-$1-$2" --network "$2" busybox sleep 3600 >/dev/null; }
container_pid() { on "$1" net inspect -f '{{.State.Pid}}' "c-$1-$2"; }
container_address() {
	on "$1" net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}' "c-$1-$2"
}

# ns HOST NETWORK: the process whose network the container or pod on HOST has, and its addresses.
ns() {
	if [ -n "${pod_pid[$1]:-}" ]; then
		echo "${pod_pid[$1]} ${pod_address[$1]}"
	else
		echo "$(container_pid "$1" "$2") $(container_address "$1" "$2")"
	fi
}

# ways NETWORK A B: containers on the two hosts reach each other by ping and TCP, whole packets, both ways, by
# each IP version.
ways() {
	local network=$1 a b pa pb aa ab i
	a=$2 b=$3
	read -r pa aa < <(ns "$a" "$network")
	read -r pb ab < <(ns "$b" "$network")
	# shellcheck disable=SC2206 # an address has no blanks
	local at_a=($aa) at_b=($ab)
	equal ${#at_a[@]} ${#at_b[@]} || fail "$a has $aa, $b has $ab"
	for i in "${!at_b[@]}"; do
		way "$a" "$pa" "${at_a[i]}" "$b" "$pb" "${at_b[i]}"
		way "$b" "$pb" "${at_b[i]}" "$a" "$pa" "${at_a[i]}"
	done
}
mtu_in() { nsenter -t "$1" -n ip -o link show eth0 | sed 's/.* mtu \([0-9]*\).*/\1/'; }
way() {
	local from=$1 pf=$2 to=$4 pt=$5 at=$6 mtu server head=28 listen=TCP4-LISTEN connect=TCP:$6:7000
	[[ $at != *:* ]] || head=48 listen=TCP6-LISTEN connect=TCP:[$at]:7000
	mtu=$(printf '%s\n' "$(mtu_in "$pf")" "$(mtu_in "$pt")" "${most[$head]:-65535}" | sort -n | head -1)
	eventually "ping $from $3 -> $to $at" nsenter -t "$pf" -n ping -c 1 -W 1 "$at"
	nsenter -t "$pf" -n ping -c 2 -i 0.2 -W 1 -M 'do' -s $((mtu - head)) "$at" >/dev/null ||
		fail "$from -> $to: packets of $mtu bytes do not get through"
	nsenter -t "$pt" -n timeout 30 socat -u $listen:7000 STDOUT </dev/null >"$work/got" &
	server=$!
	until nsenter -t "$pt" -n ss -Hltn 'sport = :7000' | grep -q .; do sleep 0.05; done
	nsenter -t "$pf" -n timeout 30 socat -u STDIN "$connect" <"$work/sent" || fail "$from -> $to: TCP failed"
	wait "$server" || fail "$from -> $to: the receiver failed"
	equal "$(sha256sum <"$work/got")" "$(sha256sum <"$work/sent")" || fail "$from -> $to: not what was sent"
	tick "4 MB by TCP $from -> $to $at, packets up to $mtu bytes"
}
