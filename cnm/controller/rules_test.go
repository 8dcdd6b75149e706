package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

// A driver decides for each family whether the network has a gateway.
func TestNetworkWithoutGateway(t *testing.T) {
	w := newWorld(t, nil)
	n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "x", IPv6: true,
		Options: map[string]string{"known": "no gateway6"}})
	if err != nil {
		t.Fatal(err)
	}
	if !n.Pools[0].Gateway.IsValid() || n.Pools[1].Gateway.IsValid() {
		t.Errorf("pools %v, want a gateway in the first alone", n.Pools)
	}
}

func TestNetworkRefusals(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	if _, err := w.CreateNetwork(t.Context(),
		cnm.NetworkRequest{Name: "linked", Options: map[string]string{"link": "br0"}}); err != nil {
		t.Fatal(err)
	}
	subnet := func(s string) []cnm.PoolRequest {
		return []cnm.PoolRequest{{Subnet: netip.MustParsePrefix(s)}}
	}
	for name, c := range map[string]struct {
		r     cnm.NetworkRequest
		kind  error
		parts []string
	}{
		"empty name":       {cnm.NetworkRequest{}, cnm.ErrInvalid, []string{`name ""`, "empty", "letters"}},
		"first character":  {cnm.NetworkRequest{Name: "-x"}, cnm.ErrInvalid, []string{`"-x"`, "starts with '-'"}},
		"other characters": {cnm.NetworkRequest{Name: "a b"}, cnm.ErrInvalid, []string{"has ' '"}},
		"long name": {cnm.NetworkRequest{Name: strings.Repeat("x", 129)}, cnm.ErrInvalid,
			[]string{"129 bytes", "128"}},
		"taken name":   {cnm.NetworkRequest{Name: "web"}, cnm.ErrExists, []string{`"web"`, "choose another name"}},
		"builtin name": {cnm.NetworkRequest{Name: "host"}, cnm.ErrExists, []string{"builtin"}},
		"unknown driver": {cnm.NetworkRequest{Name: "x", Driver: "brigde"}, cnm.ErrInvalid,
			[]string{`driver "brigde"`, `"bridge"`}},
		"singleton driver": {cnm.NetworkRequest{Name: "x", Driver: "host"}, cnm.ErrForbidden,
			[]string{"only the builtin"}},
		"unknown option": {cnm.NetworkRequest{Name: "x", Options: map[string]string{"nope": "1"}}, cnm.ErrInvalid,
			[]string{`"nope"`}},
		"taken link": {cnm.NetworkRequest{Name: "x", Options: map[string]string{"link": "br0"}}, cnm.ErrExists,
			[]string{`link "br0"`, `"linked"`, "choose another name"}},
		"overlap": {cnm.NetworkRequest{Name: "x", Pools: subnet("10.1.0.128/25")}, cnm.ErrExists,
			[]string{"10.1.0.0/24", `"web"`, "choose another"}},
		"two subnets of a plugin's": {cnm.NetworkRequest{Name: "x", IPAM: "p",
			Pools: append(subnet("10.8.0.0/24"), subnet("10.9.0.0/24")...)}, cnm.ErrInvalid,
			[]string{`IPAM driver "p"`, "one subnet of each"}},
		"no family": {cnm.NetworkRequest{Name: "x", DisableIPv4: true}, cnm.ErrInvalid,
			[]string{"no addresses"}},
		"IPv4 and not": {cnm.NetworkRequest{Name: "x", DisableIPv4: true, Pools: subnet("10.9.0.0/24")},
			cnm.ErrInvalid, []string{"leave out one"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CreateNetwork(t.Context(), c.r)
			wantError(t, err, c.kind, c.parts...)
			w.consistent(t)
		})
	}
	if n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "x", Pools: subnet("10.9.0.0/24")}); err != nil {
		t.Errorf("a refused request keeps its subnet: %v", err)
	} else if _, err := w.DeleteNetwork(t.Context(), n.ID); err != nil {
		t.Error(err)
	}
	_, err := w.DeleteNetwork(t.Context(), "host")
	wantError(t, err, cnm.ErrForbidden, "builtin")
	_, err = w.DeleteNetwork(t.Context(), "wbe")
	wantError(t, err, cnm.ErrNotFound, `network "wbe": not found`, `did you mean "web"`)
}

// The builtin bridge can be removed and made again elsewhere, and so can netd at its start; host and none stay.
func TestBuiltinBridgeMoves(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.DeleteNetwork(t.Context(), "bridge"); err != nil {
		t.Fatal(err)
	}
	_, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "bridge", Driver: "host"})
	wantError(t, err, cnm.ErrInvalid, "the builtin network bridge has driver bridge")
	n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "bridge",
		Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("10.9.0.0/24")}}})
	if err != nil || !n.Builtin || n.Pools[0].Subnet != netip.MustParsePrefix("10.9.0.0/24") {
		t.Fatalf("bridge made again: %+v, %v", n, err)
	}
	names, err := w.PruneNetworks(t.Context(), every)
	if err != nil || len(names) > 0 {
		t.Errorf("pruned %v, %v: the builtin ones stay", names, err)
	}
	w.ensure(t, nil, n.ID, "10.9.0.0/24") // it is there
	moved := w.ensure(t, prefixes("10.8.0.0/24", "fd08::/64"), "", "10.8.0.0/24", "fd08::/64")
	w.ensure(t, prefixes("fd08::/64", "10.8.0.0/24"), moved, "10.8.0.0/24", "fd08::/64")
	six := w.ensure(t, prefixes("fd07::/64"), "", "fd07::/64")
	w.sandbox(t, "bridge")
	if err := w.EnsureBuiltin(t.Context(), prefixes("10.7.0.0/24")); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("moved under an endpoint: %v", err)
	}
	w.ensure(t, nil, six, "fd07::/64")
	w.consistent(t)
}

// every network is due.
func every(cnm.Network) bool { return true }

// ensure makes the builtin networks and checks bridge, whose ID it returns; an empty ID is any.
func (w *world) ensure(t *testing.T, subnets []netip.Prefix, id string, want ...string) string {
	t.Helper()
	if err := w.EnsureBuiltin(t.Context(), subnets); err != nil {
		t.Fatal(err)
	}
	n, err := w.Network(t.Context(), "bridge")
	if err != nil || id != "" && n.ID != id {
		t.Fatalf("bridge is %s, %v, want %s", n.ID, err, id)
	}
	var got []string
	for _, p := range n.Pools {
		got = append(got, p.Subnet.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("bridge has %v, want %v", got, want)
	}
	return n.ID
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestNetworkFamilies(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		r    cnm.NetworkRequest
		want string
	}{
		"default":   {cnm.NetworkRequest{}, "true false 1"},
		"dual":      {cnm.NetworkRequest{IPv6: true}, "true true 2"},
		"IPv6 only": {cnm.NetworkRequest{IPv6: true, DisableIPv4: true}, "false true 1"},
		"by IPv6 pool": {cnm.NetworkRequest{
			Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("fd00:1::/64")}}}, "true true 2"},
		"length of IPv6": {cnm.NetworkRequest{Pools: []cnm.PoolRequest{{IPv6: true, Bits: 80}}, DisableIPv4: true},
			"false true 1"},
	} {
		c.r.Name = strings.ReplaceAll(name, " ", "-")
		n, err := w.CreateNetwork(t.Context(), c.r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprint(n.IPv4, n.IPv6, len(n.Pools)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if len(n.Pools) == 2 && !n.Pools[0].Subnet.Addr().Is4() {
			t.Errorf("%s: pools %v: IPv4 is not first", name, n.Pools)
		}
	}
}

func TestAttachRefusals(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "db", "10.2.0.0/24")
	if _, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "inside", Internal: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "plain", Driver: "plain"}); err != nil {
		t.Fatal(err)
	}
	taken := cnm.AttachRequest{
		Network: "web", Name: "first", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.9")},
		MAC:   plan.MAC{2, 0, 0, 0, 0, 1},
		Ports: []cnm.PortMapping{{HostPort: 8080, Port: 80, Count: 3}},
	}
	first, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{taken}})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := w.sandbox(t, "db")
	addr := func(a string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(a)} }
	port := func(m cnm.PortMapping) []cnm.PortMapping { return []cnm.PortMapping{m} }
	for name, c := range map[string]struct {
		r     cnm.AttachRequest
		kind  error
		parts []string
	}{
		"unknown network": {cnm.AttachRequest{Network: "webb"}, cnm.ErrNotFound, []string{`did you mean "web"`}},
		"on it already":   {cnm.AttachRequest{Network: "db"}, cnm.ErrExists, []string{`"db"`, "already"}},
		"host network":    {cnm.AttachRequest{Network: "host"}, cnm.ErrForbidden, []string{`"host"`}},
		"none network":    {cnm.AttachRequest{Network: "none"}, cnm.ErrForbidden, []string{`"none"`}},
		"address outside": {cnm.AttachRequest{Network: "web", Addrs: addr("10.3.0.1")}, cnm.ErrInvalid,
			[]string{"10.3.0.1", "10.1.0.0/24", `"web"`}},
		"address taken": {cnm.AttachRequest{Network: "web", Addrs: addr("10.1.0.9")}, cnm.ErrExists,
			[]string{"10.1.0.9", "taken by first", `"web"`}},
		"the gateway": {cnm.AttachRequest{Network: "web", Addrs: addr("10.1.0.1")}, cnm.ErrExists,
			[]string{"the gateway"}},
		"family missing": {cnm.AttachRequest{Network: "web", Addrs: addr("fd00::1")}, cnm.ErrInvalid,
			[]string{"fd00::1", "not in the subnet"}},
		"family twice": {cnm.AttachRequest{Network: "web", Addrs: append(addr("10.1.0.7"), addr("10.1.0.8")...)},
			cnm.ErrInvalid, []string{"at most one"}},
		"multicast MAC": {cnm.AttachRequest{Network: "web", MAC: plan.MAC{1}}, cnm.ErrInvalid,
			[]string{"01:00:00:00:00:00", "multicast"}},
		"MAC taken": {cnm.AttachRequest{Network: "web", MAC: plan.MAC{2, 0, 0, 0, 0, 1}}, cnm.ErrExists,
			[]string{"02:00:00:00:00:01", "taken by first"}},
		"priority": {cnm.AttachRequest{Network: "web", GwPriority: 1001}, cnm.ErrInvalid,
			[]string{`"1001"`, "-1000 to 1000"}},
		"alias": {cnm.AttachRequest{Network: "web", Aliases: []string{"a b"}}, cnm.ErrInvalid,
			[]string{`alias "a b"`}},
		"port taken": {cnm.AttachRequest{Network: "web", Ports: port(cnm.PortMapping{HostPort: 8082, Port: 80})},
			cnm.ErrPortTaken,
			[]string{"8082", "tcp", "first on network web"}},
		"port taken on one address": {cnm.AttachRequest{Network: "web",
			Ports: port(cnm.PortMapping{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Port: 80})},
			cnm.ErrPortTaken, []string{"192.0.2.1:8080"}},
		"container port 0": {cnm.AttachRequest{Network: "web", Ports: port(cnm.PortMapping{HostPort: 80})},
			cnm.ErrInvalid, []string{`container port "0": is not a port`}},
		"transport": {cnm.AttachRequest{Network: "web", Ports: port(cnm.PortMapping{Proto: "icmp", HostPort: 80,
			Port: 80})}, cnm.ErrInvalid, []string{`"icmp"`, "tcp, udp or sctp"}},
		"range": {cnm.AttachRequest{Network: "web",
			Ports: port(cnm.PortMapping{HostPort: 65535, Port: 80, Count: 2})}, cnm.ErrInvalid, []string{"65535"}},
		"internal": {cnm.AttachRequest{Network: "inside", Ports: port(cnm.PortMapping{Port: 80})},
			cnm.ErrInvalid, []string{"internal"}},
		"no ports": {cnm.AttachRequest{Network: "plain", Ports: port(cnm.PortMapping{Port: 80})},
			cnm.ErrInvalid, []string{"driver plain"}},
		"host family": {cnm.AttachRequest{Network: "web",
			Ports: port(cnm.PortMapping{HostIP: netip.MustParseAddr("::1"), Port: 80})}, cnm.ErrInvalid,
			[]string{"family of ::1"}},
		"twice in a request": {cnm.AttachRequest{Network: "web",
			Ports: []cnm.PortMapping{{HostPort: 90, Port: 80, Count: 5}, {HostPort: 94, Port: 1}}},
			cnm.ErrInvalid, []string{"overlaps 90-94:80-84/tcp"}},
		"range too long to pick": {
			cnm.AttachRequest{Network: "web", Ports: port(cnm.PortMapping{Port: 80, Count: 200})}, cnm.ErrExhausted,
			[]string{"200 free", "40000", "40099"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Attach(t.Context(), s.ID, c.r)
			wantError(t, err, c.kind, c.parts...)
			w.consistent(t)
		})
	}
	_, err = w.Attach(t.Context(), "feedfeedfeed", cnm.AttachRequest{Network: "web"})
	wantError(t, err, cnm.ErrNotFound, "feedfeedfeed")
	w.consistent(t)
	_, _, err = w.CreateSandbox(t.Context(),
		cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "db"}, {Network: "web"}, {Network: "db"}}})
	wantError(t, err, cnm.ErrExists, "already")
	w.consistent(t)
	wantError(t, w.Detach(t.Context(), s.ID, "web"), cnm.ErrNotFound, "not connected", `"db"`)
	wantError(t, w.Detach(t.Context(), "feedfeedfeed", "web"), cnm.ErrNotFound, "sandbox")
	if err := w.DeleteSandbox(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Attach(t.Context(), s.ID, taken); err != nil {
		t.Errorf("what was taken is free again, but: %v", err)
	}
}

func TestPortsThatDoNotOverlap(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	for i, m := range []cnm.PortMapping{
		{HostPort: 80, Port: 80, HostIP: netip.MustParseAddr("192.0.2.1")},
		{HostPort: 80, Port: 80, HostIP: netip.MustParseAddr("192.0.2.2")},
		{HostPort: 80, Port: 80, Proto: plan.UDP},
		{HostPort: 81, Port: 80, HostIP: netip.MustParseAddr("0.0.0.0")},
		{HostPort: 82, Port: 80, Count: 10},
		{HostPort: 92, Port: 80},
	} {
		if _, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
			Ports: []cnm.PortMapping{m}}); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{HostPort: 80, Port: 80, HostIP: netip.MustParseAddr("0.0.0.0")}}})
	wantError(t, err, cnm.ErrPortTaken, "0.0.0.0:80")
}

func TestDynamicPorts(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	foreign := map[uint16]bool{40002: true, 40003: true, 40004: true}
	tries := 0
	w.fabric.check = func(e cnm.Endpoint) error {
		for _, m := range e.Ports {
			if foreign[m.HostPort] {
				tries++
				return fmt.Errorf("bind: %w", &cnm.PortTakenError{Proto: m.Proto, Port: m.HostPort})
			}
		}
		return nil
	}
	// 40001 is reserved; the foreign process has the three after that.
	_, es, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{Port: 80}, {Port: 443, HostPort: 8443}, {Port: 81}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(es[0].Ports[0].HostPort, es[0].Ports[1].HostPort,
		es[0].Ports[2].HostPort); got != "8443 40005 40006" {
		t.Errorf("host ports %s", got)
	}
	if tries == 0 || tries > 4 {
		t.Errorf("%d tries", tries)
	}
	w.consistent(t)
	stored, err := cnm.ListEndpoints(t.Context(), w.store)
	if err != nil || fmt.Sprint(stored[0].Ports) != fmt.Sprint(es[0].Ports) {
		t.Errorf("stored %v, returned %v", stored[0].Ports, es[0].Ports)
	}
	// A fixed port in foreign hands is an error at once.
	tries = 0
	_, _, err = w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{Port: 80}, {Port: 80, HostPort: 40003}}})
	wantError(t, err, cnm.ErrPortTaken, "40003", "another process")
	if tries != 1 {
		t.Errorf("%d tries for a fixed port", tries)
	}
	w.consistent(t)
	// With every port in foreign hands it gives up after ten.
	for p := uint16(40000); p < 40100; p++ {
		foreign[p] = true
	}
	tries = 0
	_, _, err = w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{Port: 80}}})
	wantError(t, err, cnm.ErrPortTaken)
	if tries != 10 {
		t.Errorf("%d tries, want 10", tries)
	}
	w.consistent(t)
}

func TestSandboxRules(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "db", "10.2.0.0/24")
	create := func(r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
		return w.CreateSandbox(t.Context(), r)
	}
	attach := func(networks ...string) (out []cnm.AttachRequest) {
		for _, n := range networks {
			out = append(out, cnm.AttachRequest{Network: n})
		}
		return out
	}
	for name, c := range map[string]struct {
		r     cnm.SandboxRequest
		kind  error
		parts []string
	}{
		"ID":           {cnm.SandboxRequest{ID: "Nope"}, cnm.ErrInvalid, []string{`"Nope"`, "hex digits"}},
		"host and web": {cnm.SandboxRequest{Attach: attach("host", "web")}, cnm.ErrInvalid, []string{"combined"}},
		"web and none": {cnm.SandboxRequest{Attach: attach("web", "none")}, cnm.ErrInvalid, []string{"combined"}},
		"host flag, web": {cnm.SandboxRequest{Host: true, Attach: attach("web")}, cnm.ErrInvalid,
			[]string{"host's own"}},
		"ports on host": {cnm.SandboxRequest{Attach: attach("host"), Ports: []cnm.PortMapping{{Port: 80}}},
			cnm.ErrInvalid, []string{"the host's ports already"}},
		"ports on none": {cnm.SandboxRequest{Attach: attach("none"), Ports: []cnm.PortMapping{{Port: 80}}},
			cnm.ErrInvalid, []string{"network none"}},
		"ports nowhere": {cnm.SandboxRequest{Ports: []cnm.PortMapping{{Port: 80}}}, cnm.ErrInvalid,
			[]string{"bridge network"}},
	} {
		_, _, err := create(c.r)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantError(t, err, c.kind, c.parts...)
	}
	w.consistent(t)

	host, es, err := create(cnm.SandboxRequest{Attach: attach("host")})
	if err != nil || !host.Host || host.NetNS != "" || len(es) != 1 || es[0].MAC != (plan.MAC{}) ||
		len(es[0].Addrs) != 0 {
		t.Errorf("host sandbox %+v %+v %v", host, es, err)
	}
	_, err = w.Attach(t.Context(), host.ID, cnm.AttachRequest{Network: "web"})
	wantError(t, err, cnm.ErrForbidden, "host's own")
	wantError(t, w.Detach(t.Context(), host.ID, "host"), cnm.ErrForbidden)
	if none, es, err := create(cnm.SandboxRequest{Attach: attach("none")}); err != nil || none.Host ||
		none.NetNS == "" || len(es) != 0 {
		t.Errorf("none sandbox %+v %+v %v", none, es, err)
	}

	// The ports go to the endpoint with the default route.
	r := cnm.SandboxRequest{ID: strings.Repeat("ab", 32), Attach: attach("web", "db"),
		Ports: []cnm.PortMapping{{Port: 80, HostPort: 8080}}}
	r.Attach[1].GwPriority = 5
	s, es, err := create(r)
	if err != nil || len(es[0].Ports) != 0 || len(es[1].Ports) != 1 {
		t.Fatalf("%+v %+v %v", s, es, err)
	}
	again, es2, err := create(r)
	if err != nil || again.ID != s.ID || len(es2) != 2 || es2[0].ID != es[0].ID {
		t.Errorf("the same request again: %+v %+v %v", again, es2, err)
	}
	_, _, err = create(cnm.SandboxRequest{ID: r.ID, Attach: attach("web")})
	wantError(t, err, cnm.ErrExists, "other networks")
	_, _, err = create(cnm.SandboxRequest{ID: strings.Repeat("ab", 31)})
	wantError(t, err, cnm.ErrExists, "same 12 digits")
	if found, err := w.Sandbox(t.Context(), "abab"); err != nil || found.ID != s.ID {
		t.Errorf("by the beginning of its ID: %+v, %v", found, err)
	}
	w.consistent(t)
}

func TestLookup(t *testing.T) {
	w := newWorld(t, nil)
	web := w.network(t, "web", "10.1.0.0/24")
	// A name that looks like the beginning of an ID is a name first.
	odd := w.network(t, web.ID[:4], "10.2.0.0/24")
	for ref, want := range map[string]string{"web": web.ID, web.ID: web.ID, web.ID[:8]: web.ID, web.ID[:4]: odd.ID} {
		if n, err := w.Network(t.Context(), ref); err != nil || n.ID != want {
			t.Errorf("%s: %s, %v", ref, n.ID, err)
		}
	}
	if err := w.EnsureBuiltin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	host, err := w.Network(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	// Too short, or the beginning of an ID that nobody means.
	for _, ref := range []string{"", web.ID[:1], web.ID[:3], host.ID[:1], host.ID[:12]} {
		if n, err := w.Network(t.Context(), ref); !errors.Is(err, cnm.ErrNotFound) {
			t.Errorf("%q: %s, %v", ref, n.Name, err)
		}
	}
}

// TestValuesAreCopies checks that callers cannot change what the controller
// knows.
func TestValuesAreCopies(t *testing.T) {
	w := newWorld(t, nil)
	labels := map[string]string{"a": "1"}
	n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "web", Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	labels["a"] = "2"
	n.Labels["a"] = "3"
	n.Pools[0].Gateway = netip.Addr{}
	n, err = w.Network(t.Context(), "web")
	if err != nil || n.Labels["a"] != "1" || !n.Pools[0].Gateway.IsValid() {
		t.Errorf("%+v, %v", n, err)
	}
	s, _ := w.sandbox(t, "web")
	es, err := w.EndpointsOf(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	es[0].Addrs[0] = netip.Prefix{}
	es, err = w.EndpointsOf(t.Context(), s.ID)
	if err != nil || !es[0].Addrs[0].IsValid() {
		t.Errorf("%+v, %v", es, err)
	}
}

// countedStore counts commits.
type countedStore struct {
	cnm.Store
	commits int
}

func (s *countedStore) Commit(ctx context.Context, ws ...cnm.Write) error {
	s.commits++
	return s.Store.Commit(ctx, ws...)
}

func TestDriverRefusesAnEndpointBeforeItIsWritten(t *testing.T) {
	store := &countedStore{Store: mem.New()}
	w := newWorld(t, store)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "db", "10.2.0.0/24")
	s, _ := w.sandbox(t, "web")
	commits, passes := store.commits, len(w.fabric.passes)
	_, err := w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "db", Name: "refused",
		Ports: []cnm.PortMapping{{HostPort: 80, Port: 80}}})
	wantError(t, err, cnm.ErrInvalid, "not one for this driver", "db")
	if store.commits != commits || len(w.fabric.passes) != passes {
		t.Errorf("%d commits and %d passes for an endpoint that its driver refuses", store.commits-commits,
			len(w.fabric.passes)-passes)
	}
	w.consistent(t)
	if _, err := w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "db",
		Ports: []cnm.PortMapping{{HostPort: 80, Port: 80}}}); err != nil {
		t.Errorf("what the refused endpoint would have had is free, but: %v", err)
	}
}
