package bridge_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// A link has the name and the sysctls that were asked for.
func TestLinkOptionsOfEndpoints(t *testing.T) {
	w := newWorld(t, false)
	w.network("front", nil)
	w.network("back", nil)
	w.add(plan.State{Namespaces: []plan.Namespace{{Name: "a"}}})
	w.add(w.endpoint("front", 2, cnm.Endpoint{NetNS: "a", LinkOptions: cnm.LinkOptions{IfName: "web.0",
		Sysctls: map[string]string{"net.ipv4.conf.IFNAME.log_martians": "1", "net.ipv6.conf.IFNAME.accept_ra": "2",
			"net.ipv4.neigh.IFNAME.gc_stale_time": "30"}}}))
	w.add(w.endpoint("back", 2, cnm.Endpoint{NetNS: "a", Index: 1}))
	w.converge()
	for file, want := range map[string]string{
		"ipv4/conf/web.0/log_martians": "1", "ipv4/conf/eth1/log_martians": "0",
		"ipv6/conf/web.0/accept_ra": "2", "ipv6/conf/eth1/accept_ra": "0", "ipv4/neigh/web.0/gc_stale_time": "30",
	} {
		if got := strings.TrimSpace(w.must("a", "cat", "/proc/sys/net/"+file)); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	w.pings("a", "192.0.2.2", true)
	w.pings("a", "2001:db8::2", true)
	if out := w.must("a", "ip", "route", "get", "192.0.2.2"); !strings.Contains(out, "dev web.0") {
		t.Errorf("the way out: %s", out)
	}
}
