# shellcheck shell=bash
# How the demos of demo look. Sourced, not run.

bin=${VETHLOOM_BIN:-$PWD/bin}
PATH=$bin:$PATH:/usr/sbin:/sbin

if [ -t 1 ]; then
	bold=$'\e[1;36m' command_colour=$'\e[1m' dim=$'\e[2m' red=$'\e[1;31m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' command_colour='' dim='' red='' green='' plain=''
fi

chapter=0 work=''

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
	'on '*) read -r _ where text <<<"$text" && where+='$' ;;
	esac
	printf '  %s%s%s %s%s\n' "$dim" "$where" "$plain$command_colour" "$text" "$plain"
}

# typed WORD…: the words as they would be typed, with quotes around those that need them.
typed() {
	local word line=''
	for word; do
		case $word in
		'' | *[!A-Za-z0-9_./:=,@%+…-]*) word="'$word'" ;;
		esac
		line+=" $word"
	done
	printf '%s\n' "${line# }"
}

# indented: what a command prints, set off from what was typed. Nothing is shown of nothing.
indented() { sed -n '$!{p;b};/./p' | sed 's/^/    /; s/ *$//'; }

# step TEXT COMMAND…: run it, with its output indented and its time below.
step() {
	local text=$1 start status=0
	shift
	prompt "$text"
	start=$(now)
	"$@" 2>&1 </dev/null | indented || status=$?
	[ $status = 0 ] || fail "that failed with status $status"
	note "$(since "$start") ms"
}
show() { step "$(typed "$@")" "$@"; }

# expect TEXT COMMAND…: show it, and see TEXT in what it prints.
expect() {
	local want=$1 start out
	shift
	prompt "$(typed "$@")"
	start=$(now)
	out=$("$@" 2>&1 </dev/null) || fail "that failed: $out"
	indented <<<"$out"
	[[ $out == *"$want"* ]] || fail "the answer is not \"$want\""
	note "$(since "$start") ms"
}

# eventually TEXT COMMAND…: show it once TEXT is in what it prints.
eventually() {
	local want=$1 start out=''
	shift
	prompt "$(typed "$@")"
	start=$(now)
	until out=$("$@" 2>&1 </dev/null) && [[ $out == *"$want"* ]]; do
		[ "$(since "$start")" -lt 60000 ] || fail "still not \"$want\": $out"
		sleep 0.05
	done
	indented <<<"$out"
	note "$(since "$start") ms"
}

# tick TEXT: something has come true.
tick() { printf '    %s✓%s %s\n' "$green" "$plain" "$*"; }

# prove WHAT FOUND: FOUND must be empty.
prove() {
	[ -z "$2" ] || fail "left behind: $1: $2"
	printf '    %s✓%s no %s\n' "$green" "$plain" "$1"
}

# What a connection that open_connection has made, as the coprocess talk, carries there and back; and its end.
# shellcheck disable=SC2154 # coproc sets it
say_and_hear() {
	local heard
	echo "$1" >&"${talk[1]}" || fail 'the connection is closed'
	read -r -t 10 heard <&"${talk[0]}" || fail "no answer to \"$1\""
	[ "$heard" = "$1" ] || fail "sent \"$1\", heard \"$heard\""
	printf '    %s✓%s the connection carries "%s" there and back\n' "$green" "$plain" "$heard"
}
# shellcheck disable=SC2154 # coproc sets it
close_connection() {
	local out=${talk[1]} pid=$talk_pid
	exec {out}>&-
	kill "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	talk_pid=''
}

# needs PROGRAM…: root and what make build makes. Whatever ends the demo, cleanup runs.
needs() {
	[ "$(id -u)" = 0 ] || fail "network namespaces and containers need root: sudo env PATH=\"\$PATH\" make demo"
	local b
	for b; do
		[ -x "$bin/$b" ] || fail "$bin/$b is missing: make build"
	done
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 129' HUP
	trap 'exit 143' TERM
}
