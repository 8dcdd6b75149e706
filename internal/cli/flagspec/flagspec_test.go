package flagspec_test

import (
	"net/netip"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
)

func TestPorts(t *testing.T) {
	type p = apiv1.PortMapping
	for value, want := range map[string][]*p{
		"80":                  {{Proto: "tcp", ContainerPort: 80, Count: 1}},
		"53/udp":              {{Proto: "udp", ContainerPort: 53, Count: 1}},
		"8080:80":             {{Proto: "tcp", HostPort: 8080, ContainerPort: 80, Count: 1}},
		"8080:80/SCTP":        {{Proto: "sctp", HostPort: 8080, ContainerPort: 80, Count: 1}},
		"127.0.0.1:8080:80":   {{Proto: "tcp", HostIp: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Count: 1}},
		"127.0.0.1::80":       {{Proto: "tcp", HostIp: "127.0.0.1", ContainerPort: 80, Count: 1}},
		"[::1]:80:80":         {{Proto: "tcp", HostIp: "::1", HostPort: 80, ContainerPort: 80, Count: 1}},
		"[fd00::0:1]::80/udp": {{Proto: "udp", HostIp: "fd00::1", ContainerPort: 80, Count: 1}},
		"[::]:80:80":          {{Proto: "tcp", HostIp: "::", HostPort: 80, ContainerPort: 80, Count: 1}},
		"8000-8010:80-90":     {{Proto: "tcp", HostPort: 8000, ContainerPort: 80, Count: 11}},
		"0.0.0.0:65535:65535": {{Proto: "tcp", HostIp: "0.0.0.0", HostPort: 65535, ContainerPort: 65535, Count: 1}},
		"80-81,from=10.0.0.0/8": {{Proto: "tcp", ContainerPort: 80, Count: 1, From: []string{"10.0.0.0/8"}},
			{Proto: "tcp", ContainerPort: 81, Count: 1, From: []string{"10.0.0.0/8"}}},
		"target=53,published=5353,protocol=udp,from=fd00::1": {
			{Proto: "udp", HostPort: 5353, ContainerPort: 53, Count: 1, From: []string{"fd00::1/128"}}},
		"80-82": {{Proto: "tcp", ContainerPort: 80, Count: 1},
			{Proto: "tcp", ContainerPort: 81, Count: 1}, {Proto: "tcp", ContainerPort: 82, Count: 1}},
		"10.0.0.1:5-5:6-6":      {{Proto: "tcp", HostIp: "10.0.0.1", HostPort: 5, ContainerPort: 6, Count: 1}},
		"1-65535:1-65535":       {{Proto: "tcp", HostPort: 1, ContainerPort: 1, Count: 65535}},
		"[::ffff:10.0.0.1]:1:1": {{Proto: "tcp", HostIp: "10.0.0.1", HostPort: 1, ContainerPort: 1, Count: 1}},
	} {
		got, err := flagspec.Ports([]string{value})
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
	for value, want := range map[string]string{
		"":                            `"" is not a port number`,
		"0":                           `"0" is not a port number`,
		"65536":                       `"65536" is not a port number`,
		"+80":                         `"+80" is not a port number`,
		"-80":                         `"" is not a port number`,
		"80/icmp":                     `unknown protocol "icmp"`,
		"80/":                         `unknown protocol ""`,
		":80":                         `the host port before ":80" is empty`,
		"8080:":                       `container port: "" is not`,
		"8000-8010:80":                `11 host ports for 1 container ports: both ranges must have the same length`,
		"80,from=10.0.0.1/8":          `did you mean 10.0.0.0/8?`,
		"80,from=":                    `source "" is no subnet`,
		"80,from=lan":                 `source "lan" is no subnet`,
		"80,":                         `unknown option ""`,
		"80,to=10.0.0.0/8":            `unknown option "to"`,
		"[::1]:80:80,from=10.0.0.0/8": `"10.0.0.0/8": is not of the family of the host address ::1`,
		"80,from=::ffff:10.0.0.0/104": `is no subnet`,
		"target=80,published=":        `"published" has no value`,
		"target=80,target=81":         `given twice`,
		"target=80,mode=ingress":      `name the host port: 8080:80,mode=cluster`,
		"published=80":                `container port: "" is not a port number`,
		"target=80,name=web":          `unknown option "name"`,
		"90-80":                       `range "90-80" ends before it begins`,
		"web:80:80":                   `host address "web" is not an IP address`,
		"::1:80:80":                   `host address "::1" is IPv6 and needs brackets: [::1]`,
		"[127.0.0.1]:80:80":           `is IPv4, which takes no brackets`,
		"[fe80::1%eth0]:80:80":        `has a zone`,
	} {
		if _, err := flagspec.Ports([]string{value}); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.HasPrefix(err.Error(), `invalid -p "`) {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "[::1]:8000-8002:80-82", "127.0.0.1::53",
		"80:80,from=10.0.0.0/8", "target=80,published=80,from=fd00::/8,protocol=udp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := flagspec.Ports([]string{s})
		if err != nil {
			return
		}
		for _, p := range got {
			last := p.ContainerPort + p.Count - 1
			if p.Count == 0 || p.ContainerPort == 0 || last > 65535 || p.HostPort != 0 && p.HostPort+p.Count-1 > 65535 {
				t.Fatalf("%q: out of range: %v", s, p)
			}
			if _, err := netip.ParseAddr(p.HostIp); p.HostIp != "" && err != nil {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}

func TestMount(t *testing.T) {
	type m = apiv1.Mount
	for value, want := range map[string]*m{
		"/a:/b":       {Source: "/a", Target: "/b"},
		"/a/../c:/b/": {Source: "/c", Target: "/b"},
		"/a:/b:ro":    {Source: "/a", Target: "/b", ReadOnly: true},
		"/a:/b:rw":    {Source: "/a", Target: "/b"},
		"./x:/b":      {Source: "/srv/x", Target: "/b"},
		".:/b":        {Source: "/srv", Target: "/b"},
		"../y:/b":     {Source: "/y", Target: "/b"},
		"data:/b":     {Source: "data", Target: "/b", Volume: true},
		"data.v-1:/b": {Source: "data.v-1", Target: "/b", Volume: true},
		"/cache":      {Target: "/cache", Volume: true},
	} {
		got, err := flagspec.Mount(value, "/srv")
		if err != nil {
			t.Errorf("%q: %v", value, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
	for value, want := range map[string]string{
		"":          `the path in the container, "", is not absolute`,
		"/a:b":      `"b", is not absolute`,
		"/a:/":      "root cannot be mounted over",
		"/a:/b/..":  "root cannot be mounted over",
		":/b":       "the source is empty",
		"a/b:/c":    `"a/b" is neither a path`,
		"/a:/b:x":   `unknown option "x"`,
		"/a:/b:":    `unknown option ""`,
		"a:b:c:d":   "too many colons",
		"/a\x00:/b": "NUL",
	} {
		if _, err := flagspec.Mount(value, "/srv"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
}

func FuzzMount(f *testing.F) {
	for _, s := range []string{"/a:/b:ro", "data:/b", "./x:/y", "/cache"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := flagspec.Mount(s, "/srv")
		if err != nil {
			return
		}
		if !path.IsAbs(m.Target) || m.Target == "/" || path.Clean(m.Target) != m.Target {
			t.Fatalf("%q: target %q", s, m.Target)
		}
		if !m.Volume && !path.IsAbs(m.Source) || m.Volume && strings.ContainsAny(m.Source, "/\x00") {
			t.Fatalf("%q: source %q", s, m.Source)
		}
	})
}

func TestSize(t *testing.T) {
	for value, want := range map[string]int64{
		"0": 0, "1": 1, "64m": 64 << 20, "64M": 64 << 20, "64mb": 64 << 20, "64MiB": 64 << 20, "1.5g": 3 << 29,
		"1k":   1024,
		"100b": 100, "2t": 2 << 40, "0.5k": 512,
	} {
		if got, err := flagspec.Size(value); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", value, got, err, want)
		}
	}
	for _, value := range []string{"", "m", "-1", "+1", "1e3", "64q", "1..5m", "1.5", "64ib", " 64m", "0x10",
		"9999999t", "99999999999999999999", "inf", "nan"} {
		if got, err := flagspec.Size(value); err == nil {
			t.Errorf("%q is taken for %d", value, got)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"64m", "1.5g", "0", "8388607t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := flagspec.Size(s); err == nil && n < 0 {
			t.Fatalf("%q: %d", s, n)
		}
		if n, err := flagspec.CPUs(s); err == nil && (n <= 0 || n > 8192e9) {
			t.Fatalf("%q: %d", s, n)
		}
	})
}

func TestCPUs(t *testing.T) {
	for value, want := range map[string]int64{"0.5": 5e8, "2": 2e9, "0.001": 1e6, "1.": 1e9, ".25": 25e7} {
		if got, err := flagspec.CPUs(value); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", value, got, err, want)
		}
	}
	for _, value := range []string{"", "0", "-1", "many", "1e2", "8193", "0.0000000001", "inf"} {
		if got, err := flagspec.CPUs(value); err == nil {
			t.Errorf("%q is taken for %d", value, got)
		}
	}
}

func TestNetwork(t *testing.T) {
	type c = apiv1.ConnectRequest
	for value, want := range map[string]*c{
		"web":           {Network: "web"},
		"host":          {Network: "host"},
		"container:box": {Network: "container:box"},
		"name=web,ip=10.0.0.5,ip6=fd00::5,mac-address=02-42-0A-00-00-05,alias=a,alias=b,gw-priority=-7": {
			Network: "web", Addresses: []string{"10.0.0.5", "fd00::5"}, MacAddress: "02:42:0a:00:00:05",
			Aliases: []string{"a", "b"}, GatewayPriority: -7,
		},
		"name=web,outbound-ip=192.0.2.9,outbound-ip6=2001:db8::9,rate-in=2.5Gbit,rate-out=64000": {
			Network: "web", OutboundAddresses: []string{"192.0.2.9", "2001:db8::9"}, RateIn: 2_500_000_000,
			RateOut: 64_000,
		},
		"name=web,ifname=web0,sysctl=net.ipv4.conf.IFNAME.log_martians=1": {Network: "web", Ifname: "web0",
			Sysctls: map[string]string{"net.ipv4.conf.IFNAME.log_martians": "1"}},
		`name=web,"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,` +
			`net.ipv6.conf.IFNAME.accept_ra=2",driver-opt=com.docker.network.endpoint.ifname=web0`: {Network: "web",
			Ifname: "web0", Sysctls: map[string]string{"net.ipv4.conf.IFNAME.log_martians": "1",
				"net.ipv6.conf.IFNAME.accept_ra": "2"}},
	} {
		got, err := flagspec.Network(value)
		if err != nil {
			t.Errorf("%q: %v", value, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
	for value, want := range map[string]string{
		"":                                       "give a network's name",
		"container:":                             "give a network's name",
		"a,b":                                    "give a network's name",
		"ip=10.0.0.5":                            "needs name=NETWORK",
		"name=web,colour=red":                    `unknown option "colour"`,
		"name=web,ip=":                           `"ip" has no value`,
		"name=web,ip=fd00::1":                    `"fd00::1" is not an IPv4 address`,
		"name=web,ip6=10.0.0.1":                  `"10.0.0.1" is not an IPv6 address`,
		"name=web,ip=1.1.1.1,ip=2.2.2.2":         "was given before",
		"name=web,mac-address=1:2":               "is not a MAC address",
		"name=web,mac-address=03:00:00:00:00:01": "multicast",
		"name=web,mac-address=00:00:00:00:00:00": "null",
		"name=web,mac-address=zz:00:00:00:00:00": `"zz" is not a hexadecimal byte`,
		"name=web,rate-in=7kbit":                 "from 8kbit",
		"name=web,rate-in=nan":                   "not a number of bits",
		"name=web,rate-out=12mbyte":              `rate "12mbyte" is not a number of bits a second`,
		"name=web,outbound-ip=fd00::5":           "not an IPv4 address",
		"name=web,outbound-ip6=10.0.0.5":         "not an IPv6 address",
		"name=web,gw-priority=5000":              "from -1000 to 1000",
		"name=web,ifname=sixteen_bytes_xx":       "16 bytes long",
		"name=web,ifname=a0,ifname=b0":           `has the name "a0" already`,
		"name=web,sysctl=net.ipv4.ip_forward":    "has no value",
		"name=web,sysctl=net.ipv4.ip_forward=1":  "not one of a link",
		"name=web,driver-opt=colour=red":         `driver-opt "colour": unknown`,
		`name=web,"ifname=a`:                     "comma-separated",
		"name=web\nname=x":                       "comma-separated",
	} {
		if _, err := flagspec.Network(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
}

func FuzzNetwork(f *testing.F) {
	for _, s := range []string{"web", "container:x",
		"name=web,ip=10.0.0.5,mac-address=02:42:0a:00:00:05,gw-priority=3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := flagspec.Network(s)
		if err != nil {
			return
		}
		if c.Network == "" || len(c.Addresses) > 2 || c.GatewayPriority < -1000 || c.GatewayPriority > 1000 {
			t.Fatalf("%q: %v", s, c)
		}
		if c.MacAddress != "" && len(c.MacAddress) != 17 {
			t.Fatalf("%q: MAC %q", s, c.MacAddress)
		}
	})
}

func TestPools(t *testing.T) {
	got, err := flagspec.Pools([]string{"10.5.0.0/24", "fd00:5::/64"}, []string{"fd00:5::1", "10.5.0.254"},
		[]string{"10.5.0.128/25"}, []string{"dns=10.5.0.53", "db=fd00:5::d"})
	want := []*apiv1.Pool{
		{Subnet: "10.5.0.0/24", Gateway: "10.5.0.254", IpRange: "10.5.0.128/25",
			AuxAddresses: map[string]string{"dns": "10.5.0.53"}},
		{Subnet: "fd00:5::/64", Gateway: "fd00:5::1", AuxAddresses: map[string]string{"db": "fd00:5::d"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := flagspec.Pools([]string{"/24", "/64"}, nil, nil, nil); err != nil || len(got) != 2 {
		t.Fatalf("lengths alone: %v %v", got, err)
	}
	for _, c := range []struct {
		subnets, gateways, ranges, aux []string
		want                           string
	}{
		{subnets: []string{"10.5.0.1/24"}, want: "did you mean 10.5.0.0/24?"},
		{subnets: []string{"/0"}, want: "not a prefix length"},
		{subnets: []string{"/129"}, want: "not a prefix length"},
		{subnets: []string{"ten"}, want: "is not a subnet"},
		{gateways: []string{"10.0.0.1"}, want: "needs the --subnet it is in"},
		{subnets: []string{"10.5.0.0/24"}, gateways: []string{"10.6.0.1"}, want: "is in no --subnet (10.5.0.0/24)"},
		{subnets: []string{"10.5.0.0/24"}, gateways: []string{"10.5.0.1", "10.5.0.2"},
			want: "has the gateway 10.5.0.1 already"},
		{subnets: []string{"10.5.0.0/24"}, gateways: []string{"x"}, want: "is not an IP address"},
		{subnets: []string{"10.5.0.0/24"}, ranges: []string{"10.5.0.5"}, want: "is not a subnet"},
		{subnets: []string{"10.5.0.0/24"}, ranges: []string{"10.5.0.0/25", "10.5.0.0/26"},
			want: "has the range 10.5.0.0/25 already"},
		{subnets: []string{"10.5.0.0/24"}, aux: []string{"10.5.0.5"}, want: "use NAME=ADDRESS"},
		{subnets: []string{"/24"}, gateways: []string{"10.5.0.1"}, want: "is in no --subnet"},
	} {
		if _, err := flagspec.Pools(c.subnets, c.gateways, c.ranges, c.aux); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c, err, c.want)
		}
	}
}

func TestTime(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"10m":                  now.Add(-10 * time.Minute),
		"2026-01-30T10:00:00Z": time.Date(2026, 1, 30, 10, 0, 0, 0, time.UTC),
		"2026-01-30T10:00:00":  time.Date(2026, 1, 30, 10, 0, 0, 0, time.UTC),
		"2026-01-30":           time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC),
		"1769860800.25":        time.Unix(1769860800, 250e6),
		"0":                    time.Unix(0, 0).Add(now.Sub(now)),
	} {
		if value == "0" { // a duration of nothing: now
			want = now
		}
		if got, err := flagspec.Time(value, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v, want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"", "soon", "1.2.3", "-5", "99999999999999", "1.1234567890", "1.x"} {
		if got, err := flagspec.Time(value, now); err == nil {
			t.Errorf("%q is taken for %v", value, got)
		}
	}
}

func TestEnv(t *testing.T) {
	lookup := func(key string) (string, bool) {
		v, ok := map[string]string{"HOME": "/root", "EMPTY": ""}[key]
		return v, ok
	}
	got, err := flagspec.Env([]string{"A=b=c", "HOME", "EMPTY", "UNSET", "B="}, lookup)
	if diff := cmp.Diff([]string{"A=b=c", "HOME=/root", "EMPTY=", "UNSET", "B="}, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	if _, err := flagspec.Env([]string{"=x"}, lookup); err == nil {
		t.Error("a variable without name is taken")
	}
	got, err = flagspec.EnvFile(strings.NewReader("# c\r\n\r\n  A=1 # not a comment\r\nHOME\n"), "env-file", "f",
		lookup)
	if diff := cmp.Diff([]string{"A=1 # not a comment", "HOME=/root"}, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	if _, err := flagspec.EnvFile(strings.NewReader("OK=1\nno good=2\n"), "env-file", "vars", lookup); err == nil ||
		!strings.Contains(err.Error(), `read --env-file vars: line 2: "no good"`) {
		t.Errorf("got %v", err)
	}
}

func TestExtraHost(t *testing.T) {
	for value, want := range map[string]string{"db:10.0.0.5": "db:10.0.0.5", "db=fd00::5": "db:fd00::5",
		"db:[fd00::5]": "db:fd00::5", "h:host-gateway": "h:host-gateway"} {
		if got, err := flagspec.ExtraHost(value); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", value, got, err, want)
		}
	}
	for _, value := range []string{"", "db", ":10.0.0.5", "db:ten", "a b:10.0.0.5"} {
		if got, err := flagspec.ExtraHost(value); err == nil {
			t.Errorf("%q is taken for %q", value, got)
		}
	}
}

func TestKeyValues(t *testing.T) {
	got, err := flagspec.KeyValues("label", []string{"a=b=c", "flag"})
	if diff := cmp.Diff(map[string]string{"a": "b=c", "flag": ""}, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	if _, err := flagspec.KeyValues("label", []string{"=x"}); err == nil ||
		!strings.Contains(err.Error(), `invalid --label "=x"`) {
		t.Errorf("got %v", err)
	}
	if got, err := flagspec.Size("8388607t"); err != nil || got != 8388607<<40 {
		t.Errorf("the largest size: %v %v", got, err)
	}
}
