package single

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestNetdRefuses(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct{ args, words string }{
		{"--bogus", `unknown flag: --bogus.*--help`},
		{"extra", `"extra".*flags only`},
		{"--root= --run " + dir + "/r", `--root is empty`},
		{"--log-level loud", `"loud".*debug, info, warn, error`},
		{"--log-format xml", `text, json`},
		{"--bridge-netfilter maybe", `auto, keep, off`},
		{"--firewall pf", `--firewall "pf".*auto, nftables, iptables`},
		{"--http nonsense", `--http "nonsense".*127\.0\.0\.1:7470`},
		{"--host tcp://127.0.0.1:1", `only a unix socket`},
		{"--docker-host tcp://127.0.0.1:2375", `--docker-host "tcp.*--docker-tcp, with certificates`},
		{"--docker-tcp 127.0.0.1:2376 --docker-tlscacert ca.pem", `docker-tls(cert|key) is missing.*root here`},
		{"--docker-tcp 2376", `want ADDRESS:PORT`},
		{"--docker-tlskey key.pem", `give it too`},
		{"--docker-host unix:///d.sock --docker unix:///d.sock", `netd itself answers`},
		{"--shim /nope", `--shim /nope.*no such file`},
		{"--shim /etc/passwd", `no executable`},
		{"--cgroup-parent ../..", `without '\.\.'`},
		{"--config " + write("unknown.yaml", "bogus: 1"), `"bogus" is no flag of netd`},
		{"--config " + write("broken.yaml", "http: [1,2"), `flag: value`},
		{"--config " + write("bad.yaml", "log-level: loud"), `"loud"`},
		{"--config /nope.yaml", `no such file`},
		{"--root " + dir + "/root --run " + dir + "/run", `another netd \(pid \d+\) works in this network namespace`},
	} {
		r := n.call("", nil, program(t, "netd"), strings.Fields(c.args)...)
		if r.code != 1 {
			t.Errorf("netd %s: exit code %d", c.args, r.code)
		}
		matches(t, "netd "+c.args, r.err, `^netd: .*`+c.words)
	}
	r := n.call("", nil, "unshare", "-n", program(t, "netd"), "--http", "", "--root", write("file", ""), "--run",
		filepath.Join(dir, "run"))
	matches(t, "a file for a directory", r.err, `^netd: make the state directory: .*not a directory`)
	r = n.call("", nil, "setpriv", "--reuid", "1000", program(t, "netd"))
	matches(t, "another user", r.err, `must run as root`)
	matches(t, "help", n.call("", nil, program(t, "netd"), "--help").out, `--bridge-netfilter`)
}

func TestATakenHTTPAddressLeavesNothing(t *testing.T) {
	n := newNode(t)
	r := n.call("", nil, "unshare", "-n", "sh", "-c", `ip link set lo up
		busybox nc -l -p 7999 127.0.0.1 & nc=$!
		until ss -Hltn | grep -q 7999; do :; done
		"$@"; ip -o link | grep vlb-; nft list tables; kill $nc`, "sh",
		program(t, "netd"), "--http", "127.0.0.1:7999", "--root", filepath.Join(n.root, "other"), "--run",
		filepath.Join(n.RunDir, "other"))
	matches(t, "refusal", r.err, `--http 127\.0\.0\.1:7999: .*address already in use: choose another`)
	is(t, "made before the refusal", r.out, "")
}

func TestNetFindsNoNetd(t *testing.T) {
	n := newNode(t)
	mute := filepath.Join(t.TempDir(), "mute.sock")
	l, err := net.Listen("unix", mute)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.refuses(
		refusal{"-H unix:///nope/netd.sock ps", 125, `not running.*systemctl start netd`},
		refusal{"-H tcp://127.0.0.1:1 ps", 125, `unix:///absolute/path`},
		refusal{"-H garbage ps", 125, `unix:///absolute/path`},
		refusal{"-H unix://" + mute + " ps", 125, `answered nothing for 5s`},
		refusal{"wibble", 1, `unknown command "wibble"`},
		refusal{"network wibble", 1, `unknown command "wibble"`},
		refusal{"ps --wibble", 1, `unknown flag: --wibble.*--help`},
	)
	cmd := exec.Command("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups",
		program(t, "net"), "-H", "unix://"+n.sock, "ps")
	for _, dir := range []string{n.RunDir, filepath.Dir(n.RunDir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("a user outside the group may use the socket")
	}
	matches(t, "a user outside the group", string(out), `permission denied.*usermod -aG vethloom`)
}
