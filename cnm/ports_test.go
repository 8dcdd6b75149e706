package cnm_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

func mustParse(t *testing.T, text string) cnm.PortMapping {
	t.Helper()
	m, err := cnm.ParsePort(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return m
}

func TestPortText(t *testing.T) {
	for text, want := range map[string]struct {
		text      string
		published []string
	}{
		"8080:80": {"8080:80/tcp", []string{"0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"}},
		"127.0.0.1:8080-8082:80-82/udp": {"127.0.0.1:8080-8082:80-82/udp",
			[]string{"127.0.0.1:8080-8082->80-82/udp"}},
		"[::1]:53:53/UDP":         {"[::1]:53:53/udp", []string{"[::1]:53->53/udp"}},
		"[::ffff:10.0.0.1]:80:80": {"10.0.0.1:80:80/tcp", []string{"10.0.0.1:80->80/tcp"}},
		"80":                      {"80/tcp", []string{"0.0.0.0:0->80/tcp", "[::]:0->80/tcp"}},
		"80:80,from=fd00::/8,from=10.1.2.3,from=10.0.0.0/8": {"80:80/tcp,from=10.0.0.0/8,from=fd00::/8",
			[]string{"0.0.0.0:80->80/tcp", "[::]:80->80/tcp"}},
		"target=80,published=8080-8080,protocol=UDP,host_ip=::1,mode=host,from=::1": {
			"[::1]:8080:80/udp,from=::1/128", []string{"[::1]:8080->80/udp"}},
		"target=80":                  {"80/tcp", []string{"0.0.0.0:0->80/tcp", "[::]:0->80/tcp"}},
		"host_ip=10.0.0.1,target=80": {"10.0.0.1::80/tcp", []string{"10.0.0.1:0->80/tcp"}},
		"8080-8081:80-81/udp,mode=cluster": {"8080-8081:80-81/udp,mode=cluster",
			[]string{"0.0.0.0:8080-8081->80-81/udp", "[::]:8080-8081->80-81/udp"}},
		"target=80,published=8080,mode=ingress": {"8080:80/tcp,mode=cluster",
			[]string{"0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"}},
		"80:80,mode=host": {"80:80/tcp", []string{"0.0.0.0:80->80/tcp", "[::]:80->80/tcp"}},
		"10.0.0.1::80":    {"10.0.0.1::80/tcp", []string{"10.0.0.1:0->80/tcp"}},
	} {
		m := mustParse(t, text)
		if m.String() != want.text || !slices.Equal(m.Published(), want.published) {
			t.Errorf("%q: %q, %q", text, m.String(), m.Published())
		}
		if again := mustParse(t, m.String()); !reflect.DeepEqual(again, m) {
			t.Errorf("%q: its text %q means %+v, not %+v", text, m.String(), again, m)
		}
	}
}

func TestPortsOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"80:80", "80:81", true},
		{"80:80", "80:80/udp", false},
		{"80-89:80-89", "89:1", true},
		{"80-89:80-89", "90:1", false},
		{"80:80", "10.0.0.1:80:80", true},
		{"0.0.0.0:80:80", "10.0.0.1:80:80", true},
		{"0.0.0.0:80:80", "[::1]:80:80", false},
		{"[::]:80:80", "80:80", true},
		{"10.0.0.1:80:80", "10.0.0.2:80:80", false},
		{"65535:65535", "65535:1", true},
	} {
		a, b := mustParse(t, c.a), mustParse(t, c.b)
		if a.Overlaps(b) != c.want || b.Overlaps(a) != c.want {
			t.Errorf("%s and %s overlap: %v and %v, want %v", a, b, a.Overlaps(b), b.Overlaps(a), c.want)
		}
	}
}

func TestPortRefusals(t *testing.T) {
	for name, m := range map[string]cnm.PortMapping{
		"no port":   {Proto: "tcp", HostPort: 80, Count: 1},
		"transport": {Proto: "icmp", HostPort: 80, Port: 80, Count: 1},
		"range":     {Proto: "tcp", HostPort: 65535, Port: 80, Count: 2},
		"multicast": {Proto: "tcp", HostIP: netip.MustParseAddr("224.0.0.1"), HostPort: 80, Port: 80, Count: 1},
		"every node, one address": {Proto: "tcp", HostIP: netip.MustParseAddr("10.0.0.1"), HostPort: 80, Port: 80,
			Count: 1, Cluster: true},
		"every node, any port": {Proto: "tcp", Dynamic: true, Port: 80, Count: 1, Cluster: true},
		"every node, a source": {Proto: "tcp", HostPort: 80, Port: 80, Count: 1, Cluster: true,
			From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		"every node, many": {Proto: "tcp", HostPort: 1000, Port: 1000, Count: 257, Cluster: true},
		"zone": {Proto: "tcp", HostIP: netip.MustParseAddr("fe80::1%eth0"), HostPort: 80, Port: 80,
			Count: 1},
	} {
		if err := m.Check(); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%s: %v, want an ErrInvalid", name, err)
		}
	}
}

func TestModesOfPorts(t *testing.T) {
	shared := cnm.Network{Name: "web", Cluster: &cnm.ClusterNetwork{VNI: 1}}
	port := mustParse(t, "8080:80,mode=cluster")
	bound := port
	bound.HostIP = netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		n     cnm.Network
		ports []cnm.PortMapping
		want  string
	}{
		"a network of the cluster": {shared, []cnm.PortMapping{port}, ""},
		"one of this host": {cnm.Network{Name: "own"}, []cnm.PortMapping{mustParse(t, "80:80"), port},
			"this host alone"},
		"an address of one host": {shared, []cnm.PortMapping{bound}, "host-binding"},
		"as many as nodes hold": {shared, []cnm.PortMapping{mustParse(t, "1000-1254:1000-1254,mode=cluster"), port,
			mustParse(t, "2000-2999:2000-2999")}, ""},
		"more": {shared, []cnm.PortMapping{mustParse(t, "1000-1255:1000-1255,mode=cluster"), port}, "257 ports"},
	} {
		err := cnm.CheckModes(c.n, c.ports)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, cnm.ErrInvalid) ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestPortOptionsThatAreNone(t *testing.T) {
	for _, text := range []string{"80:80,mode=all", "80:80,mode=host,mode=cluster", "80:80,mode", "80:80,x=1", "80:80,",
		"80,mode=cluster", "10.0.0.1:80:80,mode=cluster", "80:80,mode=cluster,from=10.0.0.0/8", "target=80,mode=x"} {
		if m, err := cnm.ParsePort(text); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%q is %+v: %v, want an ErrInvalid", text, m, err)
		}
	}
}
