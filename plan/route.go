package plan

import (
	"fmt"
	"net/netip"
	"strconv"
)

// RouteType is the rtnetlink route type (rtm_type).
type RouteType string

// The route types a plan can hold. The zero value is unicast.
const (
	Unicast   RouteType = ""
	Local     RouteType = "local"
	Blackhole RouteType = "blackhole"
)

// Route is a route with protocol number [Protocol].
type Route struct {
	NS     NetNS
	Table  uint32 // 0 is the main table, 255 the local one
	Type   RouteType
	Dst    netip.Prefix // masked; 0.0.0.0/0 and ::/0 are the default routes
	Via    netip.Addr   // the zero value: directly connected
	Link   string
	Src    netip.Addr // preferred source, optional
	Metric uint32     // 0: 0 for IPv4, 1024 for IPv6, as the kernel has it
	OnLink bool       // the next hop is on the link whatever the addresses say
	MTU    int        // bytes; 0: none

	// Once is the number of a table whose route to the same destination, of the same metric, is made after this one.
	// While that one is there and this one is not, somebody has removed this one, and it stays so. 0: made whenever
	// it is missing.
	Once uint32
}

// Normal is the route with the kernel's defaults filled in: the main table,
// metric 1024 for IPv6, a masked destination, no link for a blackhole.
func (r Route) Normal() Route {
	if r.Table == 0 {
		r.Table = mainTable
	}
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		r.Metric = ip6Metric
	}
	if r.Type == Blackhole {
		r.Link = "" // IPv6 shows such routes on lo
	}
	r.Dst, r.Once = r.Dst.Masked(), 0
	return r
}

const (
	mainTable = 254  // RT_TABLE_MAIN
	ip6Metric = 1024 // IP6_RT_PRIO_USER
)

// Key is what makes a second route an error or a replacement: the namespace,
// the table, the destination and the metric.
func (r Route) Key() string {
	r = r.Normal()
	return in(r.NS, fmt.Sprintf("%d %s %d", r.Table, r.Dst, r.Metric))
}

func (r Route) String() string {
	parts := []string{"route"}
	if r.Type != Unicast {
		parts = append(parts, string(r.Type))
	}
	parts = append(parts, r.Dst.String())
	if r.Via.IsValid() {
		parts = append(parts, "via", r.Via.String())
	}
	if r.Link != "" {
		parts = append(parts, "dev", r.Link)
	}
	if r.Src.IsValid() {
		parts = append(parts, "src", r.Src.String())
	}
	if r.Metric != 0 {
		parts = append(parts, "metric", strconv.FormatUint(uint64(r.Metric), 10))
	}
	if r.OnLink {
		parts = append(parts, "onlink")
	}
	if r.MTU != 0 {
		parts = append(parts, "mtu", strconv.Itoa(r.MTU))
	}
	if t := r.Normal().Table; t != mainTable {
		parts = append(parts, "table", strconv.FormatUint(uint64(t), 10))
	}
	if r.Once != 0 {
		parts = append(parts, "once")
	}
	return words(r.NS, parts...)
}

func (r Route) about() about { return about{kind: "route", ns: r.NS, link: r.Link} }
