# shellcheck shell=bash
# What labs/demo/run.sh is made of. Sourced, not run.

bin=${VETHLOOM_BIN:-$PWD/bin}
PATH=$bin:$PATH:/usr/sbin:/sbin

if [ -t 1 ]; then
	bold=$'\e[1;36m' command_colour=$'\e[1m' dim=$'\e[2m' red=$'\e[1;31m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' command_colour='' dim='' red='' green='' plain=''
fi

work='' netd_pid='' talk_pid='' chapter=0 finished=''
cgroup=vldemo-$$
namespaces=() host_namespace=vldemo-$$ client_namespace=vldemo-client-$$

now() { date +%s%N; }
since() { echo $((($(now) - $1) / 1000000)); } # milliseconds

title() {
	chapter=$((chapter + 1))
	printf '\n%s%2d. %s%s\n' "$bold" $chapter "$*" "$plain"
}
note() { printf '    %s%s%s\n' "$dim" "$*" "$plain"; }
fail() {
	printf '%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
	exit 1
}

# prompt TEXT: the line that was typed, after the name of the namespace it ran in.
prompt() {
	local text=${*//$work/…} where='$'
	case $text in
	'inside '*) where='host$' text=${text#inside } ;;
	'outside '*) where='client$' text=${text#outside } ;;
	esac
	printf '  %s%s%s %s%s\n' "$dim" "$where" "$plain$command_colour" "$text" "$plain"
}

# step TEXT COMMAND…: run it, with its output indented and its time below.
step() {
	local text=$1 start status=0
	shift
	prompt "$text"
	start=$(now)
	"$@" 2>&1 </dev/null | sed 's/^/    /' || status=$?
	[ $status = 0 ] || fail "that failed with status $status"
	note "$(since "$start") ms"
}
show() { step "$*" "$@"; }

# expect TEXT COMMAND…: show it, and see TEXT in what it prints.
expect() {
	local want=$1 start out
	shift
	prompt "$*"
	start=$(now)
	out=$("$@" 2>&1 </dev/null) || fail "that failed: $out"
	printf '    %s\n' "$out"
	[[ $out == *"$want"* ]] || fail "the answer is not \"$want\""
	note "$(since "$start") ms"
}

inside() { nsenter --net="/run/netns/$host_namespace" "$@"; }
outside() { nsenter --net="/run/netns/$client_namespace" "$@"; }

begin() {
	[ "$(id -u)" = 0 ] || fail 'network namespaces and containers need root: sudo env PATH="$PATH" make demo'
	local b
	for b in netd net net-shim; do
		[ -x "$bin/$b" ] || fail "$bin/$b is missing: make build"
	done
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 129' HUP
	trap 'exit 143' TERM
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
say_and_hear() {
	local heard
	echo "$1" >&"${talk[1]}" || fail 'the connection is closed'
	read -r -t 10 heard <&"${talk[0]}" || fail "no answer to \"$1\""
	[ "$heard" = "$1" ] || fail "sent \"$1\", heard \"$heard\""
	printf '    %s✓%s the connection carries "%s" there and back\n' "$green" "$plain" "$heard"
}
close_connection() {
	local out=${talk[1]} pid=$talk_pid
	exec {out}>&-
	kill "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	talk_pid=''
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

# prove WHAT FOUND: FOUND must be empty.
prove() {
	[ -z "$2" ] || fail "left behind: $1: $2"
	printf '    %s✓%s no %s\n' "$green" "$plain" "$1"
}

# What is still there is netd's own: the network named bridge, and the chains that all networks share.
prove_host_clean() {
	prove 'endpoint, sandbox or bridge of ours in the host' "$(inside ip -o link | grep -E ': vle-' || true; ls -A "$work/run/netns")"
	prove 'element of ours in its firewall' "$(inside nft list ruleset | grep -E 'endpoint/|10\.77\.|fd77::' || true)"
	prove 'address or route of ours' "$(inside ip -o addr | grep -E '10\.77\.|fd77::' || true; inside ip route show | grep -F 10.77. || true)"
	prove 'process of ours' "$(ours | grep -vx "$netd_pid" || true; members)"
}

prove_nothing_left() {
	title 'Nothing is left'
	prove 'link on this machine' "$(comm -13 <(echo "$links_before") <(ip -o link | cut -d: -f2 | sort))"
	prove 'network namespace' "$(ip netns list | grep "vldemo.*-$$" || true; ls -A "$work/run/netns" 2>/dev/null || true)"
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
