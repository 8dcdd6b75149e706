package render

import (
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// SlowPath says why packets of an endpoint take the slow path; "": they may take the fast one. Its driver decides, by
// what it renders by.
func (r *Renderer) SlowPath(n cnm.Network, e cnm.Endpoint) string {
	d, err := r.driver(n)
	if err != nil {
		return err.Error()
	}
	if t, ok := d.(cnm.PathTeller); ok {
		return t.SlowPath(n, e, r.Host())
	}
	return "networks of driver " + n.Driver + " have no fast path"
}

// apart is an owner's state without what the fast path has, and that alone. What names no network is the fabric's: the
// networks that need it share it.
func apart(owner plan.Owner, st plan.State) (rest, fast plan.State) {
	fast.Fast, st.Fast = st.Fast, plan.Fast{}
	if owner != cnm.FabricOwner {
		f := &fast.Fast
		f.Tunnels = slices.DeleteFunc(slices.Clone(f.Tunnels), func(t plan.FastTunnel) bool { return t.Network == "" })
		f.Programs = slices.DeleteFunc(slices.Clone(f.Programs),
			func(p plan.FastProgram) bool { return p.Network == "" })
	}
	return st, fast
}

// share adds what a network shares with others.
func (c *common) share(network plan.Fast) {
	for _, t := range network.Tunnels {
		if t.Network == "" && !slices.Contains(c.fast.Tunnels, t) {
			c.fast.Tunnels = append(c.fast.Tunnels, t)
		}
	}
	for _, p := range network.Programs {
		if p.Network == "" && !slices.Contains(c.fast.Programs, p) {
			c.fast.Programs = append(c.fast.Programs, p)
		}
	}
}
