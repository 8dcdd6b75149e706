package cnm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

func TestLinkOptions(t *testing.T) {
	sysctl := func(name, value string) cnm.LinkOptions {
		return cnm.LinkOptions{Sysctls: map[string]string{name: value}}
	}
	for _, o := range []cnm.LinkOptions{{}, {IfName: "web0"}, {IfName: "exactly15bytes_"}, {IfName: "eth0.100"},
		sysctl("net.ipv4.conf.IFNAME.log_martians", "1"), sysctl("net.ipv6.neigh.IFNAME.gc_stale_time", "30"),
		sysctl("net.ipv6.conf.IFNAME.accept_ra", "2"), sysctl("net.mpls.conf.IFNAME.input", "1"),
		sysctl("net.ipv4.conf.IFNAME.x", "-1")} {
		if err := o.Check(); err != nil {
			t.Errorf("%v: %v", o, err)
		}
	}
	for _, c := range []struct {
		o    cnm.LinkOptions
		want string
	}{
		{cnm.LinkOptions{IfName: "sixteen_bytes_xx"}, "16 bytes long"},
		{cnm.LinkOptions{IfName: "lo"}, "kernel"},
		{cnm.LinkOptions{IfName: "all"}, "kernel"},
		{cnm.LinkOptions{IfName: ".."}, `has '.' in it`},
		{cnm.LinkOptions{IfName: "a/b"}, `has '/' in it`},
		{cnm.LinkOptions{IfName: "a b"}, `has ' ' in it`},
		{cnm.LinkOptions{IfName: "-x"}, `has '-' in it`},
		{cnm.LinkOptions{IfName: "brü"}, `has 'ü' in it`},
		{cnm.LinkOptions{IfName: "a\n"}, `in it`},
		{sysctl("net.ipv4.ip_forward", "1"), "--sysctl"},
		{sysctl("net.ipv4.conf.eth0.log_martians", "1"), "IFNAME as it stands"},
		{sysctl("net.ipv4.conf.all.log_martians", "1"), "not one of a link"},
		{sysctl("kernel.msgmax.conf.IFNAME.x", "1"), "not one of a link"},
		{sysctl("net.ipv4.conf.IFNAME.a/../../x", "1"), "not one of a link"},
		{sysctl("net.ipv4.conf.IFNAME.", "1"), "not one of a link"},
		{sysctl("net.ipv4.route.IFNAME.x", "1"), "not one of a link"},
		{sysctl("net.ipv6.conf.IFNAME.disable_ipv6", "1"), "the network decides"},
		{sysctl("net.ipv6.conf.IFNAME.mtu", "1400"), "the network decides"},
		{sysctl("net.ipv4.neigh.IFNAME.retrans_time_ms", "100"), "without _ms"},
		{sysctl("net.ipv4.conf.IFNAME.log_martians", "yes"), "decimal"},
		{sysctl("net.ipv4.conf.IFNAME.log_martians", "01"), "decimal"},
		{sysctl("net.ipv4.conf.IFNAME.log_martians", ""), "decimal"},
		{sysctl("net.ipv4.conf.IFNAME.log_martians", "1\n"), "decimal"},
	} {
		if err := c.o.Check(); !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.o, err, c.want)
		}
	}
	if got := cnm.SysctlPath("net.ipv4.conf.IFNAME.log_martians", "a.b"); got != "ipv4/conf/a.b/log_martians" {
		t.Errorf("path %s", got)
	}
}

// Endpoints without a name for their link get those that nobody has or is to have.
func TestLinkNamesInASandbox(t *testing.T) {
	for _, names := range [][]string{{"", "", ""}, {"", "eth0", ""}, {"eth1", "", ""}, {"web0", "", "eth0"},
		{"", "", "eth1"}} {
		var requests []cnm.AttachRequest
		for _, name := range names {
			requests = append(requests, cnm.AttachRequest{LinkOptions: cnm.LinkOptions{IfName: name}})
		}
		if err := cnm.CheckLinkNames(requests); err != nil {
			t.Errorf("%q: %v", names, err)
		}
		var have []cnm.Endpoint
		seen := map[string]bool{}
		for i, r := range requests {
			e := cnm.Endpoint{LinkOptions: r.LinkOptions, Index: cnm.FreeIndex(have, r.LinkOptions, requests)}
			if seen[e.LinkName()] || e.Index > cnm.MaxIndex {
				t.Errorf("%q: link %d is %s, index %d", names, i, e.LinkName(), e.Index)
			}
			seen[e.LinkName()] = true
			have = append(have, e)
		}
	}
	twice := cnm.AttachRequest{Network: "web", LinkOptions: cnm.LinkOptions{IfName: "web0"}}
	if err := cnm.CheckLinkNames([]cnm.AttachRequest{twice, {}, twice}); !errors.Is(err, cnm.ErrExists) ||
		!strings.Contains(err.Error(), `ifname "web0": it is the link to network web`) {
		t.Errorf("twice: %v", err)
	}
	full := []cnm.Endpoint{{Index: 2}, {Index: cnm.MaxIndex}}
	if got := cnm.FreeIndex(full, twice.LinkOptions, nil); got != 0 {
		t.Errorf("after the last index: %d, want the lowest that is free", got)
	}
}
