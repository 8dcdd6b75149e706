# shellcheck shell=bash disable=SC2154 # lib.sh and cluster.sh set what looks unset
# The engines of others in demo/run.sh: a dockerd on n1, a containerd on n2. Sourced, not run.

# Their mounts and network namespaces are in the lab's directory, where netlab down finds them, or private. What they
# unpack is elsewhere: /run may be mounted so that nothing in it can be executed.
engines_begin() {
	place=/run/vethloom-lab/$lab
	work=$(mktemp -d /tmp/vldemo.XXXXXX)
	group=/$(basename "$(find /sys/fs/cgroup -maxdepth 2 -name "vethloom-lab.$lab.*" | head -1)")
	export DOCKER_HOST=unix://$place/n1/run/dockerd.sock CONTAINER_RUNTIME_ENDPOINT=unix://$work/containerd.sock \
		IMAGE_SERVICE_ENDPOINT=unix://$work/containerd.sock CRI_CONFIG_FILE=$work/crictl.yaml
	: >"$CRI_CONFIG_FILE"
	PATH=$PATH:$PWD/.cache
}

# background HOST TEXT READY COMMAND…: start a daemon on a host, and wait until READY succeeds there.
background() {
	local host=$1 text=$2 ready=$3 start pid
	shift 3
	prompt "on $host $text &"
	start=$(now)
	"$bin/netlab" --name "$lab" exec "$host" -- "$@" >>"$work/$host.log" 2>&1 </dev/null & # it becomes the command
	pid=$!
	engines[$host]=$pid
	until on "$host" sh -c "$ready" >/dev/null 2>&1; do
		kill -0 "$pid" 2>/dev/null || fail "it ended: $(tail -5 "$work/$host.log")"
		[ "$(since "$start")" -lt 60000 ] || fail "it does not answer: $(tail -5 "$work/$host.log")"
		sleep 0.05
	done
	note "pid $pid, answers after $(since "$start") ms"
}

# dockerd looks for plugins below /run/docker, and writes into /etc/docker: it has these to itself, and of the rest of
# /run what netd and it find each other by.
start_dockerd() {
	mkdir -p "$work/docker" "$work/netd"
	echo '{}' >"$work/docker/daemon.json"
	background n1 'dockerd --bridge none' 'docker version' unshare -m sh -ec "
		mount --make-rprivate /
		mount --bind $place/n1/run $work/netd
		mount -t tmpfs tmpfs /run
		mkdir -p /run/docker/plugins /run/etc/upper /run/etc/work $place/n1/run
		mount --bind $work/netd $place/n1/run
		mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
		ln -s $place/n1/run/plugin.sock /run/docker/plugins/vethloom.sock
		exec dockerd --bridge none --config-file $work/docker/daemon.json --data-root $work/docker/data \
			--exec-root $work/docker/exec --pidfile $work/docker/pid -H $DOCKER_HOST \
			--cgroup-parent $group/n1/docker --exec-opt native.cgroupdriver=cgroupfs --log-level warn"
}

start_containerd() {
	mkdir -p "$work/bin" "$work/net.d"
	ln -s "$bin/vethloom-cni" /usr/lib/cni/loopback "$work/bin/"
	cat >"$work/net.d/10-overlay.conflist" <<-END
		{"cniVersion": "1.0.0", "name": "overlay", "plugins": [{"type": "vethloom-cni",
		 "socket": "$place/n2/run/attach.sock"}]}
	END
	cat >"$work/containerd.toml" <<-END
		version = 2
		root = "$work/containerd"
		state = "$place/n2/containerd"
		[grpc]
		  address = "$work/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "docker.io/library/busybox:latest"
		  restrict_oom_score_adj = true
		  netns_mounts_under_state_dir = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$work/bin"
		    conf_dir = "$work/net.d"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "native"
	END
	background n2 'containerd' 'crictl version' containerd --config "$work/containerd.toml"
}

# give_images hands the lab's image to both: Docker packs it, containerd takes it over.
give_images() {
	on n1 docker import -c 'CMD ["sleep", "100000"]' -c 'ENV PATH=/bin' "$place/busybox.tar" busybox
	on n1 docker save -o "$work/busybox.tar" busybox
	on n2 ctr -a "$work/containerd.sock" -n k8s.io images import --snapshotter native "$work/busybox.tar"
}

# serve TEXT: the command of a container that answers TEXT at port 80.
serve() { echo "echo $1 >/www/index.html; exec httpd -f -p 80 -h /www"; }

# write_pod NAME TEXT: what crictl makes a pod of, with a container that answers TEXT.
write_pod() {
	jq -n --arg name "$1" --arg group "$group/n2/pods" --arg logs "$work" '{metadata: {name: $name,
		namespace: "default", uid: $name}, log_directory: $logs, dns_config: {servers: ["127.0.0.11"]},
		linux: {cgroup_parent: $group}}' >"$work/pod.json"
	jq -n --arg name "$1" --arg command "$(serve "$2")" '{metadata: {name: $name}, linux: {}, log_path: "log",
		image: {image: "docker.io/library/busybox:latest"}, command: ["sh", "-c", $command]}' >"$work/container.json"
}

# inside_of ENGINE COMMAND…: run a command in the container of an engine.
inside_of() {
	local engine=$1
	shift
	case $engine in
	docker) on n1 docker exec shop "$@" ;;
	containerd) on n2 crictl exec -s "$container" "$@" ;;
	vethloom) on n3 net exec desk "$@" ;;
	esac
}

declare -A engines=() host_of=([docker]=n1 [containerd]=n2 [vethloom]=n3) \
	name_of=([docker]=shop [containerd]=cart [vethloom]=desk)

# hears FROM TO AT: the container of FROM gets the line of TO's by an address or a name.
hears() {
	local start heard host at=$3
	[[ $at != *:* ]] || at="[$at]"
	start=$(now)
	until heard=$(inside_of "$1" timeout 5 wget -qO- "http://$at/" 2>&1) && [ "$heard" = "hello from $2" ]; do
		[ "$(since "$start")" -lt 30000 ] || fail "the container of $1 does not hear that of $2 at $3: $heard"
		sleep 0.05
	done
	tick "$(printf '%-10s %s ─▶ %s  %-29s "%s"' "$1" "${host_of[$1]}" "${host_of[$2]}" "$3" "$heard")"
}

# addresses ENGINE: those of its container, IPv4 then IPv6, as the engine itself has them.
addresses() {
	case $1 in
	docker) on n1 docker inspect shop |
		jq -r '.[0].NetworkSettings.Networks.overlay | "\(.IPAddress) \(.GlobalIPv6Address)"' ;;
	containerd) on n2 crictl inspectp "$pod" |
		jq -r '.status.network | [.ip, .additionalIps[].ip] | sort | join(" ")' ;;
	vethloom) echo "$(address IPAddress n3 desk) $(address GlobalIPv6Address n3 desk)" ;;
	esac
}

# engines_talk: each of the three hears the two others, by the addresses of both families and by name.
engines_talk() {
	local from to at
	for from in docker containerd vethloom; do
		for to in docker containerd vethloom; do
			[ $from != $to ] || continue
			for at in $(addresses $to) "${name_of[$to]}"; do
				hears $from $to "$at"
			done
		done
	done
}

# show_members: who is on the network, as netd of each host has it.
show_members() {
	local host
	for host in n1 n2 n3; do
		show on $host net network inspect -f \
			'{{range .Containers}}{{.Name}} {{or .Engine "vethloom"}} {{.IPv4Address}}{{println}}{{end}}' overlay
	done
}

stop_engines() {
	local host start
	show on n1 docker rm -f shop
	show on n2 crictl rmp -f -a
	for host in n1 n2; do
		prompt "on $host kill ${engines[$host]}"
		start=$(now)
		kill "${engines[$host]}"
		wait "${engines[$host]}" || fail "it ended with status $?: $(tail -5 "$work/$host.log")"
		note "$(since "$start") ms"
	done
	engines=()
	# The shims of containerd end after it has heard from them.
	start=$(now)
	while grep -qlF "$work/" /proc/[0-9]*/cmdline 2>/dev/null; do
		[ "$(since "$start")" -lt 30000 ] || fail "still there: $(grep -lF "$work/" /proc/[0-9]*/cmdline)"
		sleep 0.05
	done
	rm -rf --one-file-system "$work"
	work=''
}

# engines_forget removes what is left once netlab down has ended the daemons and their containers.
engines_forget() {
	local pid
	for pid in "${engines[@]}"; do
		wait "$pid"
	done
	[ -z "$work" ] || rm -rf --one-file-system "$work"
}
