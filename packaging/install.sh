#!/usr/bin/env bash
# packaging/install.sh install|uninstall, below $DESTDIR/$PREFIX. Called by make.
# With DESTDIR set nothing outside it is touched: that is for building packages.
set -euo pipefail
cd "$(dirname "$0")/.."

dest=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
bindir=$prefix/bin
unitdir=$prefix/lib/systemd/system
sysusersdir=$prefix/lib/sysusers.d
bash=$prefix/share/bash-completion/completions/net
zsh=$prefix/share/zsh/site-functions/_net
fish=$prefix/share/fish/vendor_completions.d/net.fish
binaries=(netd net net-build net-shim net-copy net-resolver net-relay vethloom-cni netlab)
plugins=/opt/cni/bin # where CNI runtimes look for plugins, whatever the prefix is

reload() {
	[ -z "$dest" ] && [ -d /run/systemd/system ] || return 0
	systemctl daemon-reload
}

completion() { # completion SHELL FILE
	install -d "$dest$(dirname "$2")"
	bin/net completion "$1" >"$dest$2"
	chmod 644 "$dest$2"
}

case ${1:-} in
install)
	for b in "${binaries[@]}"; do
		# Not built here: as root there may be no Go on PATH.
		[ -x "bin/$b" ] || { echo "bin/$b is missing: run make build first" >&2; exit 1; }
	done
	install -d "$dest$bindir" "$dest$unitdir" "$dest$sysusersdir"
	for b in "${binaries[@]}"; do
		# Renamed into place: the old file may be running.
		install -m 755 "bin/$b" "$dest$bindir/.$b.new"
		mv -f "$dest$bindir/.$b.new" "$dest$bindir/$b"
	done
	# What somebody else has put there stays.
	install -d "$dest$plugins"
	if [ ! -e "$dest$plugins/vethloom-cni" ] && [ ! -L "$dest$plugins/vethloom-cni" ]; then
		ln -s "$bindir/vethloom-cni" "$dest$plugins/vethloom-cni"
	fi
	sed "s#@BINDIR@#$bindir#" packaging/netd.service >"$dest$unitdir/netd.service"
	install -m 644 packaging/sysusers.conf "$dest$sysusersdir/vethloom.conf"
	completion bash "$bash"
	completion zsh "$zsh"
	completion fish "$fish"
	if [ -z "$dest" ]; then
		getent group vethloom >/dev/null || groupadd --system vethloom
		getent passwd vethloom-resolver >/dev/null ||
			useradd --system --no-create-home --home-dir / --shell /usr/sbin/nologin vethloom-resolver
	fi
	reload
	echo "Installed into $dest$bindir. Start it with: systemctl enable --now netd"
	;;
uninstall)
	if [ "$(readlink "$dest$plugins/vethloom-cni")" = "$bindir/vethloom-cni" ]; then
		rm -f "$dest$plugins/vethloom-cni"
	fi
	for b in "${binaries[@]}"; do
		rm -f "$dest$bindir/$b"
	done
	rm -f "$dest$unitdir/netd.service" "$dest$sysusersdir/vethloom.conf" "$dest$bash" "$dest$zsh" "$dest$fish"
	reload
	echo "Removed. State is left in /var/lib/vethloom."
	;;
*)
	echo "usage: $0 install|uninstall" >&2
	exit 2
	;;
esac
