#!/bin/sh
# Put the CNI plugin and its configuration onto a Kubernetes node, or take them and all of vethloom away again.
#   install.sh install    before netd of the DaemonSet starts
#   install.sh remove     once the DaemonSet is gone: ends with 1 while pods are attached
# Settings are variables of the environment: see README.md. Runs in POSIX shells.
set -eu

conf_dir=${CONF_DIR:-/host/etc/cni/net.d}
bin_dir=${BIN_DIR:-/host/opt/cni/bin}
conf_name=${CONF_NAME:-10-vethloom.conflist}
program=vethloom-cni
plugin=${PLUGIN:-/vethloom/$program}
template=${TEMPLATE:-/etc/vethloom/cni.conflist}
cni_version=${CNI_VERSION:-1.0.0}
pod_cidrs=${POD_CIDRS:-}
account=${ACCOUNT_DIR:-/var/run/secrets/kubernetes.io/serviceaccount}
run=${RUN_DIR:-/run/vethloom}
root=${ROOT_DIR:-/var/lib/vethloom}

say() { echo "install.sh: $*" >&2; }
fail() {
	say "$@"
	exit 1
}

# temporary NAME is what a file is called before it has its name. CNI runtimes read .conf, .conflist and .json alone.
temporary() { echo ".$1.vethloom-new"; }

# place MODE FILE DIR NAME: the file is under its name as a whole, or what was there before still is. A run that was
# killed leaves the temporary file, which the next one overwrites.
place() {
	target=$3/$4
	if [ -f "$target" ] && [ ! -L "$target" ] && cmp -s "$2" "$target"; then
		return # runtimes read a configuration again when it changes
	fi
	[ ! -d "$target" ] || fail "$target is a directory: remove it"
	new=$3/$(temporary "$4")
	rm -f "$new"
	cp "$2" "$new"
	chmod "$1" "$new"
	sync "$new" # a node that loses power now has the old file or the new one
	mv -f "$new" "$target"
}

# ask_pod_cidrs prints this node's pod subnets, which only the API server tells: the downward API does not have them.
ask_pod_cidrs() {
	[ -n "${NODE_NAME:-}" ] || fail "NODE_NAME is not set: the API server is asked for this node"
	host=${KUBERNETES_SERVICE_HOST:-}
	[ -n "$host" ] || fail "POD_CIDRS=ask: KUBERNETES_SERVICE_HOST is not set: this is no pod"
	case $host in *:*) host="[$host]" ;; esac
	# The token goes by standard input: other processes see command lines.
	printf 'Authorization: Bearer %s\n' "$(cat "$account/token")" |
		curl --silent --show-error --fail --max-time 20 --cacert "$account/ca.crt" --header @- --output "$work/node" \
			"https://$host:${KUBERNETES_SERVICE_PORT:-443}/api/v1/nodes/$NODE_NAME"
	jq -r '.spec | (.podCIDRs // [.podCIDR // empty]) | join(",")' "$work/node"
}

# render prints the configuration: the template with the version of CNI, and with this node's pod subnets.
render() {
	case $cni_version in
	1.0.0 | 1.1.0) ;;
	*) fail "CNI_VERSION=$cni_version: want 1.0.0, or 1.1.0 for runtimes that know it" ;;
	esac
	[ -r "$template" ] || fail "TEMPLATE=$template cannot be read"
	list=
	if grep -q '@POD_CIDRS@' "$template"; then
		[ "$pod_cidrs" != ask ] || pod_cidrs=$(ask_pod_cidrs)
		[ -n "$pod_cidrs" ] || fail "this node has no pod subnet: POD_CIDRS is empty, or Node.spec.podCIDRs is;" \
			"kube-controller-manager gives them with --allocate-node-cidrs"
		case $pod_cidrs in
		*[!0-9a-fA-F:./,]*) fail "POD_CIDRS=$pod_cidrs: want subnets with commas between them" ;;
		esac
		list=$(echo "$pod_cidrs" | sed 's/,/", "/g')
	fi
	sed -e "s#@CNI_VERSION@#$cni_version#" -e "s#@POD_CIDRS@#$list#" "$template"
}

install_plugin() {
	[ -x "$plugin" ] || fail "PLUGIN=$plugin is no program"
	render >"$work/conflist" # before anything is placed
	mkdir -p "$bin_dir" "$conf_dir"
	place 755 "$plugin" "$bin_dir" "$program"
	# Last: with it a runtime says that it is ready.
	place 600 "$work/conflist" "$conf_dir" "$conf_name"
	say "placed $bin_dir/$program and $conf_dir/$conf_name"
}

# remove_plugin takes away what install has placed: first what leads to the plugin, then the plugin.
remove_plugin() {
	rm -f "$conf_dir/$conf_name" "$conf_dir/$(temporary "$conf_name")"
	rm -f "$bin_dir/$program" "$bin_dir/$(temporary "$program")"
}

# attached names the containers of CNI runtimes that are on networks of this node.
attached() {
	net node ls --format '{{.Self}} {{.Name}}' >"$work/nodes"
	net endpoint ls --format '{{.Engine}} {{.Node}} {{.Name}}' >"$work/endpoints"
	sed -n "s/^cni $(sed -n 's/^true //p' "$work/nodes") //p" "$work/endpoints"
}

# wait_for SECONDS COMMAND…: reports whether the command succeeded within the time.
wait_for() {
	left=$1
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$left" -gt 0 ] || return 1
		left=$((left - 1))
		sleep 1
	done
}

holds_nothing() { [ "$(net node ls --format '{{.Self}} {{.Subnets}}' | sed -n 's/^true *//p')" = '' ]; }

# take_down has netd take down what there is on this node. What the cluster has of its networks stays there.
take_down() {
	net network ls --filter type=custom --format '{{.Scope}} {{.Name}}' >"$work/networks"
	while read -r scope network; do
		if [ "$scope" = cluster ]; then
			net network leave "$network"
		else
			net network rm "$network"
		fi
	done <"$work/networks"
	wait_for 30 holds_nothing ||
		say "etcd is not reached: what this node holds of networks is free for others after --lease-ttl"
}

# sweep_chains TOOL removes our rules from iptables one by one: others change theirs at the same time.
sweep_chains() {
	command -v "$1" >/dev/null || return 0
	for table in raw mangle nat filter; do
		"$1" -w -t $table -S 2>/dev/null | grep -E 'VETHLOOM|--comment "?vethloom' >"$work/rules" || continue
		sed -n '/^-A VETHLOOM/!s/^-A/-D/p' "$work/rules" | xargs -r -L1 "$1" -w -t $table
		sed -n 's/^-N/-F/p' "$work/rules" | xargs -r -L1 "$1" -w -t $table
		sed -n 's/^-N/-X/p' "$work/rules" | xargs -r -L1 "$1" -w -t $table
	done
}

# sweep removes what a netd that has ended leaves for its return, by the marks that are on it.
sweep() {
	ip -o link | sed -n 's/^[0-9]*: \(vl[a-z]*-[0-9a-f]*\).*alias vethloom:.*/\1/p' | while read -r link; do
		ip link del "$link" 2>/dev/null || ! ip link show "$link" >/dev/null 2>&1 || fail "cannot remove link $link"
	done
	ip route flush table all proto 117
	ip -6 route flush table all proto 117
	for family in inet bridge; do
		if nft list tables | grep -qx "table $family vethloom"; then
			nft delete table $family vethloom
		fi
	done
	sweep_chains iptables
	sweep_chains ip6tables
	if command -v ebtables-save >/dev/null && ebtables-save 2>/dev/null | grep VETHLOOM >/dev/null; then
		ebtables-save | grep -v VETHLOOM | ebtables-restore
	fi
	grep -o " $run/netns[^ ]*" /proc/self/mountinfo | sort -r | while read -r pin; do
		umount "$pin" 2>/dev/null || umount -l "$pin"
	done
	rm -rf "$run" "$root"
}

remove() {
	export VETHLOOM_HOST="unix://$run/netd.sock"
	! net status >/dev/null 2>&1 || fail "netd answers at $run: delete its DaemonSet first, or stop netd.service"
	netd=
	if [ -d "$root" ]; then
		# Only netd knows what it holds. It takes up everything as it was.
		netd "$@" &
		netd=$!
		trap 'kill $netd 2>/dev/null; rm -rf "$work"' EXIT
		wait_for 60 net status || fail "netd does not start: see above"
		wait_for 30 net node ls || true # etcd may be away
		pods=$(attached)
		# Runtimes need the configuration and the plugin to end them.
		[ -z "$pods" ] || fail "pods are on networks of this node; drain it first: $(echo "$pods" | tr '\n' ' ')"
	fi
	remove_plugin
	if [ -n "$netd" ]; then
		take_down
		kill "$netd"
		wait "$netd" || say "netd ended with $?"
		trap 'rm -rf "$work"' EXIT
	fi
	sweep
	say "removed vethloom from this node"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case ${1:-} in
install)
	install_plugin
	;;
remove)
	shift
	remove "$@"
	;;
*)
	echo "usage: $0 install | remove [FLAG OF NETD]..." >&2
	exit 2
	;;
esac
