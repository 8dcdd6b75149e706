package single

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vethloom/vethloom/plugin/attach"
)

// ipam is the part of a configuration of another plugin by which it asks for addresses of web.
const ipam = `"ipam": {"type": "vethloom-cni", "network": "web", SOCKET}`

// ask calls the plugin as another one does for its addresses. More is what the configuration has besides.
func (r *runtime) ask(command string, c *libcni.RuntimeConf, more string) (*types100.Result, error) {
	r.t.Helper()
	text := strings.ReplaceAll(`{"cniVersion": "1.1.0", "name": "own", "type": "bridge", `+ipam+more+`}`, "SOCKET",
		`"socket": "`+r.socket()+`"`)
	args := &invoke.Args{Command: command, ContainerID: c.ContainerID, NetNS: c.NetNS, IfName: c.IfName,
		PluginArgs: c.Args, Path: "/usr/lib/cni"}
	out := new(types100.Result)
	err := r.do(func(ctx context.Context) error {
		answer, err := (&invoke.RawExec{Stderr: os.Stderr}).ExecPlugin(ctx, program(r.t, "vethloom-cni"), []byte(text),
			args.AsEnv())
		if err != nil || command != "ADD" {
			return err
		}
		return json.Unmarshal(answer, out)
	})
	return out, err
}

// wants asks for an address, by its family's first of the result.
func (r *runtime) wants(c *libcni.RuntimeConf, addr string) (string, error) {
	r.t.Helper()
	more := ""
	if addr != "" {
		more = `, "runtimeConfig": {"ips": ["` + addr + `"]}`
	}
	res, err := r.ask("ADD", c, more)
	if err != nil {
		return "", err
	}
	return addrOf(r.t, res, addr == "" || netip.MustParseAddr(addr).Is4()), nil
}

// The reference plugin bridge puts a container on a network's own bridge, with addresses of the network.
func TestAddressesAloneUnderBridge(t *testing.T) {
	n := withImage(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "-o", "bridge-name=br-web", "web")
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sh", "-c", serve("db"))
	l, c := r.list(`{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "bridge", "bridge": "br-web",
		"capabilities": {"ips": true}, `+ipam+`}]}`), r.box("pod")
	c.CapabilityArgs = map[string]any{"ips": []string{"10.7.0.99/24", "fd07::99"}}
	res := r.add(l, c)
	is(t, "addresses", addrOf(t, res, true)+" "+addrOf(t, res, false), "10.7.0.99 fd07::99")
	is(t, "default routes", r.in("pod", "ip route show default; ip -6 route show default | cut -d' ' -f1-5"),
		"default via 10.7.0.1 dev eth0 \ndefault via fd07::1 dev eth0\n")
	r.in("pod", "ip link set lo up") // engines do that by the plugin loopback
	n.says(c.NetNS, "pod")
	for _, addr := range []string{"10.7.0.99", "fd07::99"} {
		n.eventually(addr+" answers ours", func() bool {
			return n.net("exec", "db", "sh", "-c", "echo | nc -w 3 "+addr+" 80").out == "pod"
		})
	}
	n.eventually("ours answers", func() bool {
		return r.in("pod", "echo | busybox nc -w 3 "+n.address("db", "web")+" 80") == "db\n"
	})
	check := func() error { return r.do(func(ctx context.Context) error { return r.CheckNetworkList(ctx, l, c) }) }
	if err := check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	n.restart()
	if err := check(); err != nil {
		t.Errorf("CHECK after netd was started again: %v", err)
	}
	if _, err := attach.Do(t.Context(), r.socket(), attach.Request{Call: attach.Detach, Key: key(c)}); err != nil {
		t.Error(err)
	}
	if err := check(); code(err) != 3 {
		t.Errorf("CHECK after the addresses were given back: %v, want code 3", err)
	}
	r.del(l, c)
	r.del(l, c)
	is(t, "links in the namespace", r.in("pod", "ip -o link | wc -l"), "1\n")
}

// The reference plugin macvlan puts a container on a LAN, beside ours.
func TestAddressesAloneUnderMacvlan(t *testing.T) {
	n, far := withLAN(t)
	r := newRuntime(n)
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "--subnet", "192.0.2.0/24", "--ip-range",
		"192.0.2.32/27", "--gateway", "192.0.2.100", "web")
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	l, c := r.list(`{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "macvlan", "master": "lan0",
		`+ipam+`}]}`), r.box("pod")
	res := r.add(l, c)
	is(t, "address", addrOf(t, res, true), "192.0.2.33")
	far.Run("ping", "-c1", "-W5", "192.0.2.33")
	n.ok("exec", "db", "ping", "-c1", "-W5", "192.0.2.33")
	is(t, "default route", r.in("pod", "ip route show default"), "default via 192.0.2.100 dev eth0 \n")
	r.del(l, c)
}

// What is asked wrongly is an error, and leaves nothing. A repeated ADD finds its addresses.
func TestAddressesAloneOfCNI(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/29", "web")
	c, other := r.box("pod"), r.box("other")
	for _, k := range []struct {
		what, more string
		args       [][2]string
		netns      string
		code       uint
		says       string
	}{
		{"an address of no subnet", `, "runtimeConfig": {"ips": ["10.9.0.1"]}`, nil, c.NetNS, 7, "10.9.0.1"},
		{"a family that is not there", `, "args": {"cni": {"ips": ["fd07::1"]}}`, nil, c.NetNS, 7, "family"},
		{"two of a family", `, "runtimeConfig": {"ips": ["10.7.0.4", "10.7.0.5"]}`, nil, c.NetNS, 7, "one address"},
		{"no address", "", [][2]string{{"IP", "x"}}, c.NetNS, 7, `"x"`},
		{"no namespace", "", nil, c.NetNS + "x", 8, "does not exist"},
	} {
		bad := *c
		bad.NetNS, bad.Args = k.netns, k.args
		if _, err := r.ask("ADD", &bad, k.more); code(err) != k.code || !strings.Contains(fmt.Sprint(err), k.says) {
			t.Errorf("%s: code %d, %v; want code %d with %q", k.what, code(err), err, k.code, k.says)
		}
	}
	c.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", "10.7.0.4"}}
	for range 2 {
		if a, err := r.wants(c, ""); err != nil || a != "10.7.0.4" {
			t.Errorf("an address by CNI_ARGS: %q, %v", a, err)
		}
	}
	if _, err := r.wants(other, "10.7.0.4"); code(err) != 100 {
		t.Errorf("an address that is taken: %v, want code 100", err)
	}
	// A container that is started again elsewhere keeps its address, and the namespace that it had is of no meaning.
	again := r.box("again")
	again.ContainerID = c.ContainerID
	if a, err := r.wants(again, ""); err != nil || a != "10.7.0.4" {
		t.Errorf("the address in another namespace: %q, %v", a, err)
	}
	res, err := r.ask("ADD", other, `, "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.1/8"}]}`)
	if err != nil || len(res.IPs) != 1 || res.IPs[0].Interface != nil || len(res.Interfaces) != 0 ||
		res.IPs[0].Gateway.String() != "10.7.0.1" || res.Routes[0].GW.String() != "10.7.0.1" {
		t.Errorf("result: %+v, %v", res, err)
	}
	if r := n.net("network", "rm", "web"); !strings.Contains(r.err, "reserved by cni/") {
		t.Errorf("removing the network: %q, want that addresses are reserved", r.err)
	}
	if _, err := r.ask("DEL", other, ""); err != nil {
		t.Errorf("DEL: %v", err)
	}
	for i := range 4 {
		if _, err := r.wants(r.box(fmt.Sprint("full", i)), ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.wants(other, ""); code(err) != 11 {
		t.Errorf("ADD on a full network: %v, want code 11", err)
	}
	if _, err := r.ask("STATUS", c, ""); code(err) != 51 {
		t.Errorf("STATUS of a full network: %v, want code 51", err)
	}
	valid := `, "cni.dev/valid-attachments": [{"containerID": "pod", "ifname": "eth0"}]`
	if _, err := r.ask("GC", c, valid); err != nil {
		t.Errorf("GC: %v", err)
	}
	if _, err := r.wants(other, "10.7.0.4"); code(err) != 100 {
		t.Errorf("what GC was told of: %v, want that it is kept", err)
	}
	if err := errors.Join(r.free(other, "10.7.0.2"), r.free(other, "10.7.0.6")); err != nil {
		t.Errorf("what GC has collected: %v", err)
	}
	if _, err := r.ask("STATUS", c, ""); err != nil {
		t.Errorf("STATUS: %v", err)
	}
}

// free looks whether an address can be had, and gives it back.
func (r *runtime) free(c *libcni.RuntimeConf, addr string) error {
	r.t.Helper()
	_, err := r.wants(c, addr)
	if err == nil {
		_, err = r.ask("DEL", c, "")
	}
	return err
}

// Addresses go with the container, whoever is away when it goes.
func TestAddressesAloneAreCollected(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	c, lost, probe := r.box("pod"), r.box("lost"), r.box("probe")
	for c, addr := range map[*libcni.RuntimeConf]string{c: "10.7.0.4", lost: "fd07::5"} {
		if _, err := r.wants(c, addr); err != nil {
			t.Fatal(err)
		}
	}
	moved := r.box("moved")
	moved.ContainerID = lost.ContainerID
	if _, err := r.wants(moved, "fd07::5"); err != nil {
		t.Fatal(err)
	}
	r.lose("lost")
	if err := n.netd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	if _, err := r.ask("ADD", probe, ""); code(err) != 11 {
		t.Errorf("ADD without netd: %v, want code 11", err)
	}
	if _, err := r.ask("DEL", c, ""); err != nil {
		t.Errorf("DEL without netd: %v", err)
	}
	n.start()
	n.eventually("what was left to be given back is", func() bool { return r.free(probe, "10.7.0.4") == nil })
	if _, err := r.wants(probe, "fd07::5"); code(err) != 100 {
		t.Errorf("the address of a container that has moved: %v, want code 100", err)
	}
	r.lose("moved")
	n.eventually("the address of a namespace that is gone is free", func() bool {
		return r.free(probe, "fd07::5") == nil
	})
	n.ok("network", "rm", "web")
}
