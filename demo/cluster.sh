# shellcheck shell=bash disable=SC2154 # lib.sh sets what looks unset
# What demo/run.sh is made of, beside lib.sh. Sourced, not run.

lab=demo-$$ talk_pid='' finished=''
drivers=(overlay vxlan udp host-gw)
declare -A subnet4=([overlay]=10.81.0.0/16 [vxlan]=10.82.0.0/16 [udp]=10.83.0.0/16 [host-gw]=10.84.0.0/16)
declare -A subnet6=([overlay]=fd81::/64 [vxlan]=fd82::/56 [udp]=fd83::/56 [host-gw]=fd84::/56)

netlab() { "$bin/netlab" --name "$lab" "$@"; }
on() {
	local host=$1
	shift
	netlab exec "$host" -- "$@"
}
fault() {
	local start
	prompt "netlab fault $*"
	start=$(now)
	netlab fault "$@" || fail "fault $*"
	note "$(since "$start") ms"
}

begin() {
	needs netd net net-shim netlab
	links_before=$(ip -o link | cut -d: -f2 | sort)
	began=$(now)
}

# address FIELD HOST CONTAINER: as `net inspect` has it.
address() {
	local found
	found=$(on "$2" net inspect -f "{{range .NetworkSettings.Networks}}{{.$1}}{{end}}" "$3") && [ -n "$found" ] ||
		fail "net inspect $3 has no $1"
	echo "$found"
}

# reach NETWORK: a container on n1 and one on n3 reach the one on n2, by both families.
reach() {
	local four six host start
	four=$(address IPAddress n2 "web-$1")
	six=$(address GlobalIPv6Address n2 "web-$1")
	for host in n1 n3; do
		start=$(now)
		until on $host net exec "on-$1" ping -c 1 -W 1 "$four" >/dev/null 2>&1 &&
			on $host net exec "on-$1" ping -6 -c 1 -W 1 "$six" >/dev/null 2>&1; do
			[ "$(since "$start")" -lt 60000 ] || fail "$1: $host does not reach $four and $six"
		done
		tick "$(printf '%-8s %s ─▶ n2  %-13s  %-25s  %s ms' "$1" $host "$four" "$six" \
			"$(round_trip $host "on-$1" "$four")")"
		[ "$(on $host net exec "on-$1" timeout 5 wget -qO- "http://$four/")" = 'hello from a container' ] ||
			fail "$1: no answer from http://$four/"
		[ "$(on $host net exec "on-$1" timeout 5 wget -qO- "http://[$six]/")" = 'hello from a container' ] ||
			fail "$1: no answer from http://[$six]/"
	done
}

round_trip() { on "$1" net exec "$2" ping -c 3 -i 0.2 -W 1 "$3" | sed -n 's|.*min/avg/max = [^/]*/\([^/]*\)/.*|\1|p'; }

# A TCP connection between two containers, held by nothing of ours. It is made inside the container's network
# without net exec, whose own stream would end with netd.
open_connection() {
	local pid
	pid=$(on n1 net inspect -f '{{.State.Pid}}' "$1")
	coproc talk { exec nsenter --net="/proc/$pid/ns/net" socat - "TCP:$2:7007,connect-timeout=5"; }
	# shellcheck disable=SC2154 # coproc sets it
	talk_pid=$talk_PID
	note "a container on n1 has a TCP connection to $2:7007 on n2"
}

prove_nothing_left() {
	title 'Nothing is left'
	local path=/run/vethloom-lab/$lab
	prove 'link on this machine' "$(comm -13 <(echo "$links_before") <(ip -o link | cut -d: -f2 | sort))"
	prove 'file of the lab' "$(ls -d "$path" 2>/dev/null || true)"
	prove 'mount or network namespace' "$(grep -F "$path/" /proc/self/mountinfo || true)"
	prove 'process' "$(grep -lF "$path/" /proc/[0-9]*/cmdline 2>/dev/null || true)"
	prove 'cgroup' "$(find /sys/fs/cgroup -maxdepth 2 -name "vethloom-lab.$lab.*")"
	prove 'firewall table on this machine' "$(nft list tables | grep vethloom || true)"
	finished=yes
	printf '\n%sdone in %s s%s\n' "$bold" "$(($(since "$began") / 1000))" "$plain"
}

# cleanup ends what a failed or interrupted demo left.
cleanup() {
	local status=$? n
	trap - EXIT
	set +e
	if [ -z "$finished" ]; then
		for n in n1 n2 n3; do
			[ -s /run/vethloom-lab/$lab/$n/log ] || continue
			printf '\n%slast lines of netd on %s:%s\n' "$bold" $n "$plain" >&2
			tail -12 /run/vethloom-lab/$lab/$n/log >&2
		done
	fi
	[ -n "$talk_pid" ] && kill "$talk_pid" 2>/dev/null
	{
		"$bin/netlab" --name "$lab" down 2>&3 # not what the shell says of daemons that are killed
		engines_forget
	} 3>&2 2>/dev/null
	exit $status
}
