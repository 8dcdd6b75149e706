# shellcheck shell=bash disable=SC2154 # lib.sh sets what looks unset
# What demo/single.sh is made of, beside lib.sh. Sourced, not run.

netd_pid='' talk_pid='' finished=''
cgroup=vldemo-$$
namespaces=() host_namespace=vldemo-$$ client_namespace=vldemo-client-$$

inside() { nsenter --net="/run/netns/$host_namespace" "$@"; }
outside() { nsenter --net="/run/netns/$client_namespace" "$@"; }

begin() {
	needs netd net net-shim
	work=$(mktemp -d /tmp/vldemo.XXXXXX)
	mkdir "$work/www"
	echo 'hello from a container' >"$work/www/index.html"
	export VETHLOOM_HOST=unix://$work/run/netd.sock
	links_before=$(ip -o link | cut -d: -f2 | sort)
	began=$(now)
}

make_namespace() {
	namespaces+=("$1")
	show ip netns add "$1"
}

remove_namespaces() {
	local n
	for n in "${namespaces[@]}"; do
		show ip netns del "$n"
	done
	namespaces=()
}

# Started without `ip netns exec`, which would put it into a mount namespace of its own.
start_netd() {
	local start
	prompt "inside netd --root $work/state --run $work/run &"
	start=$(now)
	nsenter --net="/run/netns/$host_namespace" "$bin/netd" --root "$work/state" --run "$work/run" \
		--host "$VETHLOOM_HOST" --http 127.0.0.1:7470 --cgroup-parent "/$cgroup" >>"$work/netd.log" 2>&1 </dev/null &
	netd_pid=$!
	until net status >/dev/null 2>&1; do
		kill -0 $netd_pid 2>/dev/null || fail 'netd ended'
		[ "$(since "$start")" -lt 15000 ] || fail 'netd does not answer'
		sleep 0.02
	done
	note "pid $netd_pid, answers after $(since "$start") ms"
}

kill_netd() {
	prompt "kill -9 $netd_pid"
	kill -9 "$netd_pid"
	wait "$netd_pid" 2>/dev/null || true
	netd_pid=''
}

stop_netd() {
	local start pid=$netd_pid
	prompt "kill $pid"
	start=$(now)
	kill "$pid"
	netd_pid=''
	wait "$pid" || fail "netd ended with status $?"
	note "netd ended after $(since "$start") ms"
}

make_rootfs() {
	local busybox
	busybox=$(command -v busybox)
	mkdir -p "$1"/{bin,dev,etc,proc,run,sys,tmp,www}
	cp -L "$busybox" "$1/bin/busybox"
	chroot "$1" /bin/busybox --install -s /bin
	printf 'root:x:0:0:root:/:/bin/sh\n' >"$1/etc/passwd"
	printf 'root:x:0:\n' >"$1/etc/group"
}
import_rootfs() { tar -C "$work/rootfs" -c . | net import - busybox; }

# address FIELD CONTAINER: as `net inspect` has it.
address() {
	local found
	found=$(net inspect "$2" | jq -er ".[0].NetworkSettings.Networks.demo.$1") || fail "net inspect $2 has no $1"
	echo "$found"
}

# A connection from the client outside, kept open over several steps.
open_connection() {
	coproc talk { exec nsenter --net="/run/netns/$client_namespace" socat - "TCP:$1:$2"; }
	# shellcheck disable=SC2154 # coproc sets it
	talk_pid=$talk_PID
	note "the client outside has a TCP connection to $1:$2"
}

until_answer() {
	local start
	start=$(now)
	until outside curl -sS -m 1 "http://$1:$2/" 2>/dev/null; do
		[ "$(since "$start")" -lt 15000 ] || return 1
		sleep 0.05
	done
}

cgroups() { find /sys/fs/cgroup -type d -path "*/$cgroup*"; }

# ours lists what runs in the host's namespace: netd, and a net-shim for each container.
# members lists what runs in the containers.
ours() { ip netns pids "$host_namespace" 2>/dev/null || true; }
members() { cgroups | while read -r dir; do cat "$dir/cgroup.procs"; done | sort -u; }

# What is still there is netd's own: the network named bridge, and the chains that all networks share.
prove_host_clean() {
	prove 'endpoint, sandbox or bridge of ours in the host' \
		"$(inside ip -o link | grep -E ': vle-' || true; ls -A "$work/run/netns")"
	prove 'element of ours in its firewall' "$(inside nft list ruleset | grep -E 'endpoint/|10\.77\.|fd77::' || true)"
	prove 'address or route of ours' \
		"$(inside ip -o addr | grep -E '10\.77\.|fd77::' || true; inside ip route show | grep -F 10.77. || true)"
	prove 'process of ours' "$(ours | grep -vx "$netd_pid" || true; members)"
}

prove_nothing_left() {
	title 'Nothing is left'
	prove 'link on this machine' "$(comm -13 <(echo "$links_before") <(ip -o link | cut -d: -f2 | sort))"
	prove 'network namespace' \
		"$(ip netns list | grep "vldemo.*-$$" || true; ls -A "$work/run/netns" 2>/dev/null || true)"
	prove 'mount' "$(grep -F "$work" /proc/self/mountinfo || true)"
	prove 'process' "$(grep -lF "$work" /proc/[0-9]*/cmdline 2>/dev/null || true)"
	prove 'cgroup' "$(cgroups)"
	prove 'firewall table on this machine' "$(nft list tables | grep vethloom || true)"
	finished=yes
	printf '\n%sdone in %s s%s\n' "$bold" "$(($(since "$began") / 1000))" "$plain"
}

# cleanup ends what a failed or interrupted demo left, by the pids that it started.
cleanup() {
	local status=$? n mount
	trap - EXIT
	set +e
	if [ -z "$finished" ] && [ -s "$work/netd.log" ]; then
		printf '\n%slast lines of netd:%s\n' "$bold" "$plain" >&2
		tail -25 "$work/netd.log" >&2
	fi
	[ -n "$talk_pid" ] && kill "$talk_pid" 2>/dev/null
	if [ -n "$netd_pid" ] && kill -0 "$netd_pid" 2>/dev/null; then
		net ps -aq 2>/dev/null | xargs -r "$bin/net" rm -f >/dev/null 2>&1
		kill "$netd_pid" 2>/dev/null && wait "$netd_pid" 2>/dev/null
	fi
	{ ours; members; } | xargs -r kill -9 2>/dev/null
	for n in "${namespaces[@]}"; do
		ip netns del "$n" 2>/dev/null
	done
	if [ -n "$work" ]; then
		awk -v w="$work/" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
			umount -l "$mount"
		done
		rm -rf --one-file-system "$work"
		for n in 1 2 3 4 5; do # the kernel needs a moment to notice that they are empty
			cgroups | sort -r | xargs -r rmdir 2>/dev/null && break
			sleep 0.2
		done
	fi
	exit $status
}
