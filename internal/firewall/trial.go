package firewall

import (
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// Trial is what shared rules and those of one network are like, to find out whether a kernel takes them.
func Trial() plan.Ruleset {
	r := Base(Config{}).Rules
	e := Elements{Owner: "trial"}
	e.Bridge("vlb-0")
	e.Forward("vlb-0", "vlb-0")
	for _, to := range []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")} {
		e.Local(to.Masked(), "vlb-0")
		e.Masquerade(to.Masked())
		e.Publish(Publication{On: Everywhere(to.Addr()), Proto: plan.TCP, HostPort: 80, Count: 2, To: to.Addr(),
			Port: 80, From: []netip.Prefix{to.Masked()}})
		if to.Addr().Is4() {
			e.Source("vle-0", plan.MAC{2}, []netip.Prefix{to})
		}
	}
	r.Elements = e.List
	return r
}
