package single

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

// etcdServer starts an etcd on a unix socket, which every network namespace reaches, and puts
// what keys and values say into it. It returns its URL.
func etcdServer(t *testing.T, put ...string) string {
	t.Helper()
	dir := t.TempDir()
	url := "unix://" + filepath.Join(dir, "etcd.sock")
	srv, err := embedded.Start(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data"), ClientURLs: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := 0; i < len(put); i += 2 {
		if _, err := srv.Client().Put(t.Context(), put[i], put[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return url
}

// underlay gives the node a link to others, of which there are none, and waits until it is a member of its cluster.
func (n *node) underlay() {
	n.t.Helper()
	n.Sh("ip link add up0 type veth peer name up1 && ip link set up1 up && ip addr add 192.0.2.1/24 dev up0 && ip " +
		"link set up0 up && ip route add default via 192.0.2.254")
	n.t.Cleanup(func() { n.Run("ip", "link", "del", "up0") })
	await.Done(n.t, "the node is a member", func() error {
		if r := n.net("node", "ls"); !strings.Contains(r.out, "192.0.2.1") {
			return fmt.Errorf("net node ls: exit code %d: %s%s", r.code, r.out, r.err)
		}
		return nil
	})
}

func TestClusterNetworkCreateRefuses(t *testing.T) {
	url := etcdServer(t,
		"/flannel/good/config", `{"Network":"10.40.0.0/16","Backend":{"Type":"vxlan","VNI":77}}`,
		"/flannel/garbage/config", `{"Network":`,
		"/flannel/null/config", `{"Network":"10.41.0.0/99"}`,
		"/flannel/ipsec/config", `{"Network":"10.42.0.0/16","Backend":{"Type":"ipsec"}}`,
		"/flannel/taken/config", `{"Network":"10.20.0.0/16","Backend":{"Type":"vxlan","VNI":78}}`,
	)
	n := newNode(t, "--etcd", url)
	n.underlay()
	n.ok("network", "create", "-d", "vxlan", "--subnet", "10.20.0.0/16", "-o", "vni=7", "web")
	n.ok("network", "create", "-d", "overlay", "--subnet", "10.21.0.0/16", "-o", "vni=8", "wide")
	n.ok("network", "create", "-d", "udp", "--subnet", "10.22.0.0/16", "-o", "port=9000", "slow")
	n.ok("network", "create", "--subnet", "10.23.0.0/16", "local")
	var list []refusal
	for _, d := range []string{"vxlan", "udp", "host-gw", "overlay"} {
		create := "network create -d " + d + " "
		list = append(list,
			refusal{create + "-o mtv=1 x", 1, `unknown option "mtv" \(did you mean "mtu"\?\)`},
			refusal{create + "-o mtu=big x", 1, `option mtu="?big"?.*68 to 65535`},
			refusal{create + "web", 1, `name "web": .*(exists|has a network of this name).*choose another name`},
			refusal{create + "--subnet 10.20.128.0/17 x", 1, `10.20.128.0/17.*overlaps 10.20.0.0/16.*"?web"?`},
			refusal{create + "--subnet 10.0.0.0/8 x", 1, `10.0.0.0/8.*overlaps`},
			refusal{create + "--subnet 10.23.1.0/24 x", 1, `10.23.1.0/24.*overlaps 10.23.0.0/16.*"?local"?`},
			refusal{create + "--subnet 10.8.0.5/24 x", 1, `did you mean 10.8.0.0/24`},
			refusal{create + "--subnet garbage x", 1, `not a subnet`},
			refusal{create + "--subnet 10.50.0.0/16 --subnet 10.51.0.0/16 x", 1, `one subnet of each family`},
			refusal{create + "--subnet 192.0.2.0/24 x", 1, `192.0.2.0/24.*(route|link|address|host)`},
		)
		if d == "overlay" {
			continue
		}
		list = append(list,
			refusal{create + "-o subnet-length=31 x", 1, `option subnet-length="?31"?: want a number from 1 to 30`},
			refusal{create + "-o subnet-length=x x", 1, `option subnet-length="?x"?: want a number`},
			refusal{create + "--subnet 10.50.0.0/16 -o subnet-length=16 x", 1, `subnet-length.*16`},
			refusal{create + "--subnet 10.50.0.0/16 -o subnet-length=8 x", 1, `subnet-length.*8`},
			refusal{create + "-o subnet-length6=80 x", 1,
				`option subnet-length6="?80"?: the network has no subnets of that family`},
			refusal{create + "--subnet 10.50.0.0/30 x", 1, `10.50.0.0/30`},
			refusal{create + "--subnet 10.50.0.0/16 --gateway 10.50.0.1 x", 1, `gateway "10.50.0.1".*leave it out`},
			refusal{create + "--subnet 10.50.0.0/16 --ip-range 10.50.1.0/24 x", 1,
				`ip-range "10.50.1.0/24".*leave it out`},
			refusal{create + "-o flannel.prefix=relative x", 1, `option flannel.prefix="?relative"?: want a directory`},
			refusal{create + "-o flannel.prefix=/nope x", 1, `flannel.prefix "/nope".*no config`},
			refusal{create + "-o flannel.prefix=/flannel/garbage x", 1, `/flannel/garbage.*malformed`},
			refusal{create + "-o flannel.prefix=/flannel/null x", 1, `/flannel/null.*10.41.0.0/99`},
			refusal{create + "-o flannel.prefix=/flannel/ipsec x", 1, `ipsec`},
			refusal{create + "-o flannel.prefix=/flannel/good --subnet 10.40.0.0/16 x", 1,
				`subnet "10.40.0.0/16".*leave it out`},
			refusal{create + "-o subnet-env=relative x", 1, `unknown option "subnet-env"`},
		)
	}
	list = append(list,
		refusal{"network create -d vxlan -o vni=0 x", 1, `option vni="?0"?: want a number from 1 to 16777215`},
		refusal{"network create -d vxlan -o vni=16777216 x", 1,
			`option vni="?16777216"?: want a number from 1 to 16777215`},
		refusal{"network create -d overlay -o vni=16777216 x", 1,
			`option vni="?16777216"?: want a number from 1 to 16777215`},
		refusal{"network create -d vxlan -o port=70000 x", 1, `option port="?70000"?: want a number from 1 to 65535`},
		refusal{"network create -d vxlan -o vni=7 x", 1, `VNI 7, port 8472.*"web".*choose another`},
		refusal{"network create -d overlay -o vni=8 x", 1, `VNI 8, port 4789.*"wide".*choose another`},
		refusal{"network create -d udp -o port=9000 x", 1, `port 9000.*"slow".*choose another`},
		refusal{"network create -d udp -o vni=9 x", 1, `unknown option "vni"`},
		refusal{"network create -d udp -o offload=maybe x", 1, `option offload="?maybe"?: want on or off`},
		refusal{"network create -d udp -o flannel.prefix=/flannel/good x", 1, `its backend is "vxlan".*driver`},
		refusal{"network create -d vxlan -o flannel.prefix=/flannel/taken x", 1, `10.20.0.0/16.*overlaps`},
		refusal{"network create --subnet 10.21.7.0/24 x", 1, `10.21.7.0/24.*overlaps 10.21.0.0/16.*"?wide"?`},
		refusal{"network create --subnet 10.20.0.0/14 x", 1, `10.20.0.0/14.*overlaps`},
		refusal{"network create wide", 1, `name "wide"`},
	)
	n.refuses(list...)
	is(t, "networks", n.ok("network", "ls", "--format", "{{.Name}}"), "bridge\nhost\nlocal\nnone\nslow\nweb\nwide")
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for prefix, want := range map[string]int64{"/vethloom/network/": 3, "/vethloom/flannel/": 4, "/flannel/": 5} {
		if got := count(t, client, prefix); got != want {
			t.Errorf("%d keys below %s, want %d", got, prefix, want)
		}
	}
	n.ok("network", "rm", "web", "wide", "slow", "local")
	if got := count(t, client, "/vethloom/network/") + count(t, client, "/vethloom/flannel/") +
		count(t, client, "/vethloom/block/"); got != 0 {
		t.Errorf("%d keys are left of networks", got)
	}
}

func TestAddressesOfOtherNodes(t *testing.T) {
	n := withImage(t, "--etcd", etcdServer(t))
	n.underlay()
	n.ok("network", "create", "-d", "vxlan", "--subnet", "10.20.0.0/16", "web")
	n.ok("network", "create", "-d", "overlay", "--subnet", "10.21.0.0/16", "wide")
	own := n.ok("lease", "ls", "--format", "{{.Subnet}}")
	other := "10.20.1.7"
	if strings.HasPrefix(own, "10.20.1.") {
		other = "10.20.2.7"
	}
	n.refuses(
		refusal{"run --rm --network web --ip " + other + " bb true", 125, `"` + other + `".*` +
			strings.Split(own, "/")[0]},
		refusal{"run --rm --network web --ip 10.9.9.9 bb true", 125, `"10.9.9.9"`},
		refusal{"run --rm --network wide --ip 10.9.9.9 bb true", 125, `"10.9.9.9"`},
		refusal{"run --rm --network wide --ip 10.21.0.1 bb true", 125, `"10.21.0.1".*gateway`},
	)
	is(t, "an address inside", n.ok("run", "--rm", "--network", "wide", "--ip", "10.21.200.7", "bb", "hostname", "-i"),
		"10.21.200.7")
}

func TestNetdRefusesClusterFlags(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(key, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := "--http= --root " + dir + "/root --run " + dir + "/run "
	for _, c := range []struct{ args, words string }{
		{"--node-ip 10.0.0.300", `--node-ip "10.0.0.300": want a unicast address`},
		{"--node-ip 127.0.0.1", `--node-ip "127.0.0.1": want a unicast address`},
		{"--iface-can-reach nonsense", `--iface-can-reach "nonsense": want`},
		{"--iface up0 --node-ip 192.0.2.1", `--node-ip, --iface.*give one of them`},
		{"--iface nope0", `--iface nope0: there is no such link`},
		{"--node-ip 198.51.100.7", `--node-ip 198\.51\.100\.7: no link of this host has that address`},
		{"--node-name a/b", `--node-name "a/b"`},
		{"--etcd-prefix nope", `--etcd-prefix "nope": want a path`},
		{"--lease-ttl 1s", `--lease-ttl 1s: want 5s to`},
		{"--etcd-user root", `--etcd-user "root": the embedded etcd serves nobody else`},
		{"--etcd ftp://x:1", `--etcd "ftp://x:1".*scheme`},
		{"--etcd http://192.0.2.1:2379 --etcd-user root", `(password|https)`},
		{"--etcd https://192.0.2.1:2379 --etcd-cafile /nope.pem", `--etcd-cafile.*"?/nope.pem"?`},
		{"--etcd https://192.0.2.1:2379 --etcd-cafile " + key, `--etcd-cafile.*garbage.pem`},
		{"--etcd https://192.0.2.1:2379 --etcd-certfile " + key, `--etcd-keyfile`},
	} {
		r := n.call("", nil, "unshare", append([]string{"-n", program(t, "netd")}, strings.Fields(base+c.args)...)...)
		if r.code != 1 {
			t.Errorf("netd %s: exit code %d", c.args, r.code)
		}
		matches(t, "netd "+c.args, r.err, `(?m)^netd: .*`+c.words)
	}
}

// TestNetdWithoutItsCluster wants local networks to work whatever is wrong with the cluster, and the
// status to say what that is.
func TestNetdWithoutItsCluster(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		words string
	}{
		"nobody answers": {[]string{"--etcd", "http://127.0.0.1:1"}, `127\.0\.0\.1:1.*refused`},
		"no TLS there":   {[]string{"--etcd", "https+plain"}, `(TLS|tls|handshake|HTTPS)`},
		"wrong password": {[]string{"--etcd", "auth"}, `(?i)auth`},
	} {
		t.Run(name, func(t *testing.T) {
			password := filepath.Join(t.TempDir(), "password")
			if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			flags := c.flags
			switch flags[1] {
			case "https+plain":
				flags = []string{"--etcd", strings.Replace(etcdServer(t), "unix:", "unixs:", 1)}
			case "auth":
				flags = []string{"--etcd", guarded(t), "--etcd-user", "root", "--etcd-password-file", password}
			}
			n := newNode(t, flags...)
			var said string
			defer func() {
				if t.Failed() {
					t.Logf("status:\n%s", said)
				}
			}()
			n.eventually("status says why", func() bool {
				said = n.ok("status")
				return regexpMatch(c.words, said)
			})
			start := time.Now()
			n.ok("network", "create", "web")
			n.ok("network", "rm", "web")
			if took := time.Since(start); took > patience/4 {
				t.Errorf("a local network took %v", took)
			}
			r := n.net("network", "create", "-d", "vxlan", "x")
			if r.code != 1 || strings.Count(r.err, "\n") > 0 {
				t.Errorf("network create: exit code %d: %s", r.code, r.err)
			}
			is(t, "networks", n.ok("network", "ls", "--format", "{{.Name}}"), "bridge\nhost\nnone")
		})
	}
}

func count(t *testing.T, c *clientv3.Client, prefix string) int64 {
	t.Helper()
	got, err := c.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return got.Count
}

func regexpMatch(re, s string) bool { return regexp.MustCompile(re).MatchString(s) }

// guarded starts an etcd that wants a password, which is not the tests'.
func guarded(t *testing.T) string {
	t.Helper()
	url := etcdServer(t)
	c, err := etcd.Dial(etcd.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.UserAdd(t.Context(), "root", "another"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return url
}
