package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

func (k *records) findNetwork(ref string) (cnm.Network, error) {
	if id, ok := k.ix.names[ref]; ok && !k.ix.networks[id].pending {
		return k.ix.networks[id].v, nil
	}
	return find("network", ref, k.ix.networks, sortedKeys(k.ix.names), func(n cnm.Network) bool { return !n.Builtin })
}

// find looks a record up by ID or the beginning of one. Some are known by their names only, not by a beginning.
func find[T any](field, ref string, in map[string]*entry[T], known []string, byBeginning func(T) bool) (found T,
	err error) {
	if e := in[ref]; e != nil && !e.pending {
		return e.v, nil
	}
	matches := 0
	for id, e := range in {
		if !e.pending && cnm.Begins(id, ref) && byBeginning(e.v) {
			found = e.v
			matches++
		}
	}
	var none T
	switch matches {
	case 1:
		return found, nil
	case 0:
		return none, notFound(field, ref, known)
	}
	return none, &cnm.Error{
		Kind: cnm.ErrInvalid, Field: field, Value: ref, Reason: fmt.Sprintf("%d IDs begin with it", matches),
		Remedy: "give more digits or the name",
	}
}

func notFound(field, value string, known []string) error {
	e := &cnm.Error{Kind: cnm.ErrNotFound, Field: field, Value: value, Reason: "not found"}
	if near := nearest(value, known); len(near) > 0 {
		e.Remedy = "did you mean " + joinNames(near) + "?"
	} else if len(known) > 0 && len(known) <= 8 {
		e.Remedy = "there are " + joinNames(known)
	}
	return e
}

// nearest are the known names that differ from the given one by a typing
// mistake, or contain it.
func nearest(name string, known []string) []string {
	var near []string
	for _, k := range known {
		a, b := strings.ToLower(name), strings.ToLower(k)
		if distance(a, b) <= max(1, len(a)/3) || len(a) > 2 && strings.Contains(b, a) {
			near = append(near, k)
		}
	}
	return near[:min(len(near), 5)]
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours between a and b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func joinNames(names []string) string {
	names = slices.Clone(names)
	for i := range names {
		names[i] = fmt.Sprintf("%q", names[i])
	}
	return strings.Join(names, ", ")
}

// Networks lists the networks by name.
func (k *records) Networks(ctx context.Context) ([]cnm.Network, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]cnm.Network, 0, len(k.ix.networks))
	for _, e := range k.ix.networks {
		if !e.pending {
			out = append(out, copyNetwork(e.v))
		}
	}
	slices.SortFunc(out, func(a, b cnm.Network) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Network finds a network by name, ID or the unambiguous beginning of an ID.
func (k *records) Network(ctx context.Context, ref string) (cnm.Network, error) {
	if err := ctx.Err(); err != nil {
		return cnm.Network{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := k.findNetwork(ref)
	return copyNetwork(n), err
}

// Sandboxes lists the sandboxes by ID.
func (k *records) Sandboxes(ctx context.Context) ([]cnm.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]cnm.Sandbox, 0, len(k.ix.sandboxes))
	for _, e := range k.ix.sandboxes {
		if !e.pending {
			out = append(out, copySandbox(e.v))
		}
	}
	slices.SortFunc(out, func(a, b cnm.Sandbox) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Sandbox finds a sandbox by ID or the unambiguous beginning of one.
func (k *records) Sandbox(ctx context.Context, ref string) (cnm.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return cnm.Sandbox{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s, err := find("sandbox", ref, k.ix.sandboxes, nil, func(cnm.Sandbox) bool { return true })
	return copySandbox(s), err
}

// Endpoints lists all endpoints by ID.
func (k *records) Endpoints(ctx context.Context) ([]cnm.Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[cnm.Endpoint] { return k.ix.endpoints },
		func(a, b cnm.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
}

// EndpointsOf lists the endpoints of a sandbox by index.
func (k *records) EndpointsOf(ctx context.Context, sandbox string) ([]cnm.Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[cnm.Endpoint] { return k.ix.ofSandbox[sandbox] }, byIndex)
}

// EndpointsOn lists the endpoints on a network by ID.
func (k *records) EndpointsOn(ctx context.Context, network string) ([]cnm.Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[cnm.Endpoint] { return k.ix.ofNetwork[network] },
		func(a, b cnm.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
}

func (k *records) listEndpoints(ctx context.Context, from func() map[string]*entry[cnm.Endpoint],
	by func(a, b cnm.Endpoint) int) ([]cnm.Endpoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]cnm.Endpoint, 0)
	for _, e := range from() {
		if !e.pending {
			out = append(out, copyEndpoint(e.v))
		}
	}
	slices.SortFunc(out, by)
	return out, nil
}

// freeName refuses a network whose name another one has. The caller holds mu.
func (k *records) freeName(n cnm.Network) error {
	id, taken := k.ix.names[n.Name]
	if !taken || id == n.ID {
		return nil
	}
	e := &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: n.Name,
		Reason: "a network of this name exists (" + cnm.Short(id) + ")",
		Remedy: "choose another name or remove that network"}
	if k.ix.networks[id].v.Phase == cnm.Deleting {
		e.Reason, e.Remedy = "a network of this name is being removed", "try again in a moment"
	}
	return e
}

// checkLink refuses a network whose link another one has. The caller holds mu.
func (k *records) checkLink(n cnm.Network) error {
	link := k.linkOf(n)
	if link == "" {
		return nil
	}
	for id, other := range k.ix.networks {
		if id != n.ID && k.linkOf(other.v) == link {
			e := &cnm.Error{Kind: cnm.ErrExists, Field: "link", Value: link,
				Reason: fmt.Sprintf("network %q has the link of this name", other.v.Name),
				Remedy: "choose another name for the link, or none to have one made"}
			if d := k.driverOf(n); d != nil && cnm.IsLAN(d, n) {
				e.Reason = fmt.Sprintf("network %q has it: a LAN is one network", other.v.Name)
				e.Remedy = "put containers on that one, or name another link, or a VLAN of this one: -o vlan=ID"
			}
			return e
		}
	}
	return nil
}

func (k *records) linkOf(n cnm.Network) string {
	if d, ok := k.driverOf(n).(cnm.LinkNamer); ok {
		return d.NetworkLink(n)
	}
	return ""
}

func (k *records) containerOf(sandbox string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.ix.sandboxes[sandbox]; s != nil {
		return s.v.Container
	}
	return ""
}
