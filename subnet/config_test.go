package subnet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// comparable settings for go-cmp: addresses and prefixes by value.
func byValue() cmp.Options {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
}

func TestParseConfigDefaults(t *testing.T) {
	for in, want := range map[string]string{
		`{"Network":"10.5.0.0/16"}`: "10.5.0.0/16 /24 10.5.1.0 10.5.255.0 | invalid " +
			"Prefix /0 invalid IP invalid IP | udp",
		`{"network":"10.5.3.4/16","BACKEND":{"type":"vxlan"}}`: "10.5.0.0/16 /24 10.5.1.0 10.5.255.0 | invalid " +
			"Prefix /0 invalid IP invalid IP | vxlan",
		`{"Network":"10.5.0.0/22"}`: "10.5.0.0/22 /24 10.5.1.0 10.5.3.0 | invalid " +
			"Prefix /0 invalid IP invalid IP | udp",
		`{"Network":"10.5.0.0/23"}`: "10.5.0.0/23 /25 10.5.0.128 10.5.1.128 | invalid " +
			"Prefix /0 invalid IP invalid IP | udp",
		`{"Network":"10.5.0.0/28"}`: "10.5.0.0/28 /30 10.5.0.4 10.5.0.12 | invalid " +
			"Prefix /0 invalid IP invalid IP | udp",
		`{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0",` +
			`"Backend":{"Type":"udp","Port":7890}}`: "10.0.0.0/8 /20 10.10.0.0 10.99.0.0 | " +
			"invalid Prefix /0 invalid IP invalid IP | udp",
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":null}`: "" +
			"10.5.0.0/16 /24 10.5.1.0 10.5.255.0 | " +
			"fc00::/48 /64 fc00:0:0:1:: fc00:0:0:ffff:: | udp",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/63"}`: "" +
			"invalid Prefix /0 invalid IP invalid IP | " +
			"fc00::/63 /65 fc00::8000:0:0:0 fc00:0:0:1:8000:: | udp",
		`{"EnableIPv4":false,"Network":"0.0.0.0/0","EnableIPv6":true,"IPv6Network":"fc00::/124"}`: "" +
			"invalid Prefix /0 invalid IP invalid IP | " +
			"fc00::/124 /126 fc00::4 fc00::c | udp",
	} {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := configText(c); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
}

func configText(c Config) string {
	var parts []string
	for _, s := range []space{c.v4(), c.v6()} {
		parts = append(parts, strings.Join([]string{s.net.String(), "/" + itoa(*s.bits), s.min.String(),
			s.max.String()}, " "))
	}
	return strings.Join(append(parts, c.Backend.Type), " | ")
}

func itoa(n int) string {
	return strings.TrimPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), n).String(), "::/")
}

func TestParseConfigRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``:                          "no JSON object",
		`null`:                      "null",
		`"a"`:                       "no JSON object",
		`{"Network":"10.5.0.0/16"`:  "no JSON object",
		`{}`:                        "Network: want",
		`{"Network":"10.5.0.0"}`:    `Network "10.5.0.0"`,
		`{"Network":"fc00::/48"}`:   `Network "fc00::/48"`,
		`{"Network":7}`:             "Network 7",
		`{"Network":"0.0.0.0/0"}`:   "Network: want",
		`{"Network":"10.5.0.0/29"}`: "too small",
		`{"Network":"10.5.0.0/16","SubnetLen":31}`:                                            "SubnetLen 31",
		`{"Network":"10.5.0.0/16","SubnetLen":-1}`:                                            "SubnetLen -1",
		`{"Network":"10.5.0.0/16","SubnetLen":17}`:                                            "SubnetLen 17",
		`{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`:                                    "SubnetMin 10.6.0.0",
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.7"}`:                                    "did you mean 10.5.1.0",
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`:             "behind",
		`{"Network":"10.5.0.0/16","SubnetMax":"ten"}`:                                         `SubnetMax "ten"`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true}`:                                         "IPv6Network: want",
		`{"EnableIPv4":false}`:                                                                "both false",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":49}`: "IPv6SubnetLen 49",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}`:                   "too small",
		`{"Network":"10.5.0.0/16","Backend":{}}`:                                              "no Type",
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`:                 "VNI 16777216",
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":70000}}`:                     "Port 70000",
		`{"Network":"10.5.0.0/16","Backend":"vxlan"}`: "Backend is no " +
			"JSON object",
	} {
		_, err := ParseConfig([]byte(in))
		if !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a malformed config that says %q", in, err, want)
		}
	}
}

func TestConfigKeepsWhatItDoesNotKnow(t *testing.T) {
	in := `{"Network":"10.5.0.0/16","EnableNFTables":true,` +
		`"Backend":{"Type":"vxlan","VNI":7,"Port":8472,"DirectRouting":true,"MTU":1400}}`
	c, err := ParseConfig([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if c.Backend.VNI != 7 || c.Backend.Port != 8472 || !c.Backend.DirectRouting {
		t.Errorf("backend %+v", c.Backend)
	}
	b, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"EnableNFTables":true`, `"MTU":1400`, `"SubnetLen":24`, `"SubnetMin":"10.5.1.0"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","X":[1]},"Y":null}`))
	f.Add([]byte(`{"Network":"10.5.0.0/28","EnableIPv6":true,"IPv6Network":"fc00::/124","IPv6SubnetLen":126}`))
	f.Add([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/1"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := ParseConfig(in)
		if err != nil {
			if !errors.Is(err, ErrBadConfig) {
				t.Fatalf("%q: %v is no malformed config", in, err)
			}
			return
		}
		b, err := c.JSON()
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		again, err := ParseConfig(b)
		if err != nil {
			t.Fatalf("%q was written as %s: %v", in, b, err)
		}
		c.Extra, again.Extra, c.Backend.Extra, again.Backend.Extra = nil, nil, nil, nil // their spelling may change
		if d := cmp.Diff(c, again, byValue()); d != "" {
			t.Fatalf("%q changed:\n%s", in, d)
		}
		for range 3 {
			got, ok := c.pick(Subnets{}, nil)
			if !ok || !c.fits(got.Subnets) || !got.paired {
				t.Fatalf("%q: the first subnet is %+v, %v", in, got, ok)
			}
		}
	})
}
