package kerntest

import (
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// traffic holds what goes by some links to a rate, in one direction or both.
func (g *generator) traffic() {
	for _, l := range g.s.Links {
		if l.Kind != plan.Veth || l.NS != "" || l.Peer.NS == "" {
			continue
		}
		if g.chance(30, "shaper") {
			g.shaper(l.Name)
		}
		if !g.chance(30, "redirect") {
			continue
		}
		through := plan.Link{Name: strings.Replace(l.Name, "vl", "vli", 1), Owner: l.Owner, Kind: plan.IFB, MTU: l.MTU,
			Up: true}
		g.s.Links = append(g.s.Links, through)
		g.shaper(through.Name)
		g.s.Redirects = append(g.s.Redirects, plan.Redirect{Link: l.Name, To: through.Name})
	}
}

func (g *generator) shaper(link string) {
	g.s.Shapers = append(g.s.Shapers, plan.Shaper{Link: link, Rate: pick(g, "rate", uint64(125_000), 12_500_000, 6e9),
		Burst: pick(g, "burst", uint32(16<<10), 256<<10)})
}
