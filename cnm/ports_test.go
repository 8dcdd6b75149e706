package cnm_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
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
		"10.0.0.1::80":               {"10.0.0.1::80/tcp", []string{"10.0.0.1:0->80/tcp"}},
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
		"zone":      {Proto: "tcp", HostIP: netip.MustParseAddr("fe80::1%eth0"), HostPort: 80, Port: 80, Count: 1},
	} {
		if err := m.Check(); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%s: %v, want an ErrInvalid", name, err)
		}
	}
}
