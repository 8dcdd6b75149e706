package docker

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

type networkService struct{ networks server.Networks }

func networkRoutes(srv *Server) []route {
	s := networkService{srv.cfg.Networks}
	return []route{
		{pattern: "GET /networks", do: s.list},
		{pattern: "POST /networks/create", do: s.create},
		{pattern: "POST /networks/prune", do: s.prune},
		{pattern: "GET /networks/{id}", do: s.inspect},
		{pattern: "DELETE /networks/{id}", do: s.remove},
		{pattern: "POST /networks/{id}/connect", do: s.connect},
		{pattern: "POST /networks/{id}/disconnect", do: s.disconnect},
	}
}

func (s networkService) list(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	wanted, err := server.MatchNetworks(given)
	if err != nil {
		return err
	}
	all, err := s.networks.ListNetworks(r.Context())
	if err != nil {
		return err
	}
	out := []network.Inspect{}
	for _, n := range all {
		if wanted(n) {
			n.Endpoints = nil // a list is without them
			out = append(out, encodeNetwork(n))
		}
	}
	return w.json(http.StatusOK, out)
}

func (s networkService) inspect(w *answer, r *http.Request) error {
	n, err := s.networks.InspectNetwork(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, encodeNetwork(n))
}

func (s networkService) create(w *answer, r *http.Request) error {
	var c network.CreateRequest
	if err := decode(w, r, &c); err != nil {
		return err
	}
	req, err := decodeNetwork(c)
	if err != nil {
		return err
	}
	n, err := s.networks.CreateNetwork(r.Context(), req)
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, network.CreateResponse{ID: n.ID})
}

// remove leaves the networks that every Docker has.
func (s networkService) remove(w *answer, r *http.Request) error {
	n, err := s.networks.InspectNetwork(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if n.Builtin {
		return &refusal{status: http.StatusForbidden, text: n.Name + " is a pre-defined network and cannot be removed"}
	}
	if _, err := s.networks.RemoveNetwork(r.Context(), n.ID); err != nil {
		return err
	}
	return w.empty(http.StatusNoContent)
}

func (s networkService) prune(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	due, err := server.MatchPruned(given)
	if err != nil {
		return err
	}
	names, err := s.networks.PruneNetworks(r.Context(), func(n cnm.Network) bool { return due(n.Created, n.Labels) })
	if err != nil {
		return err
	}
	slices.Sort(names)
	return w.json(http.StatusOK, network.PruneReport{NetworksDeleted: names})
}

func (s networkService) connect(w *answer, r *http.Request) error {
	var c network.ConnectRequest
	if err := decode(w, r, &c); err != nil {
		return err
	}
	req, err := decodeEndpoint(r.PathValue("id"), c.EndpointConfig)
	if err != nil {
		return err
	}
	if _, err := s.networks.Connect(r.Context(), c.Container, req); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}

func (s networkService) disconnect(w *answer, r *http.Request) error {
	var d network.DisconnectRequest
	if err := decode(w, r, &d); err != nil {
		return err
	}
	if err := s.networks.Disconnect(r.Context(), r.PathValue("id"), d.Container, d.Force); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}

// decodeNetwork reads what a network is to be. Every container may be attached to every network here, and a name is
// there once, whether asked for or not.
func decodeNetwork(c network.CreateRequest) (cnm.NetworkRequest, error) {
	out := cnm.NetworkRequest{
		Name: c.Name, Driver: c.Driver, Internal: c.Internal, Options: c.Options, Labels: c.Labels,
		IPv6: c.EnableIPv6 != nil && *c.EnableIPv6, DisableIPv4: c.EnableIPv4 != nil && !*c.EnableIPv4,
		ConfigOnly: c.ConfigOnly, Attachable: c.Attachable,
	}
	if out.Driver == network.NetworkDefault {
		out.Driver = ""
	}
	if c.ConfigFrom != nil {
		out.ConfigFrom = c.ConfigFrom.Network
	}
	if c.Ingress {
		return out, unsupported("Ingress", "true", "there is no routing mesh of a swarm here",
			"publish ports with mode=cluster")
	}
	if c.Scope == "swarm" {
		return out, unsupported("Scope", c.Scope, "netd makes no networks of a swarm",
			"choose a driver whose networks reach across hosts: overlay, vxlan, udp or hostgw")
	}
	if c.IPAM == nil {
		return out, nil
	}
	out.IPAM, out.IPAMOptions = c.IPAM.Driver, c.IPAM.Options
	for _, p := range c.IPAM.Config {
		pool, err := decodePool(p)
		if err != nil {
			return out, err
		}
		out.Pools = append(out.Pools, pool)
	}
	return out, nil
}

func decodePool(p network.IPAMConfig) (cnm.PoolRequest, error) {
	for field, prefix := range map[string]netip.Prefix{"Subnet": p.Subnet, "IPRange": p.IPRange} {
		if prefix.IsValid() && prefix != prefix.Masked() {
			return cnm.PoolRequest{}, invalid(field, prefix.String(), "has bits set beyond its length",
				"did you mean "+prefix.Masked().String()+"?")
		}
	}
	return cnm.PoolRequest{Subnet: p.Subnet, Range: p.IPRange, Gateway: p.Gateway.Unmap(), Aux: p.AuxAddress,
		IPv6: p.Subnet.IsValid() && p.Subnet.Addr().Is6()}, nil
}

// decodeEndpoint reads what a container asks for on a network.
func decodeEndpoint(name string, e *network.EndpointSettings) (cnm.AttachRequest, error) {
	out := cnm.AttachRequest{Network: name}
	if e == nil {
		return out, nil
	}
	out.Aliases, out.GwPriority = e.Aliases, e.GwPriority
	if len(e.Links) > 0 {
		return out, unsupported("Links", e.Links[0], "containers are not linked to one another here",
			"containers on one network find each other by name; give further ones as aliases")
	}
	if m := e.MacAddress; len(m) > 0 && copy(out.MAC[:], m) != len(m) {
		return out, invalid("MacAddress", m.String(), "has more than six bytes", "give six of them")
	}
	var err error
	if out.Addrs, err = decodeAddresses(e.IPAMConfig); err != nil {
		return out, err
	}
	for _, name := range sortedKeys(e.DriverOpts) {
		if err := out.LinkOptions.SetDocker(name, e.DriverOpts[name]); err != nil {
			return out, err
		}
	}
	return out, nil
}

func decodeAddresses(c *network.EndpointIPAMConfig) (out []netip.Addr, err error) {
	if c == nil {
		return nil, nil
	}
	if len(c.LinkLocalIPs) > 0 {
		return nil, unsupported("LinkLocalIPs", c.LinkLocalIPs[0].String(),
			"no further addresses are given to a link", "leave it out")
	}
	for _, want := range []struct {
		field string
		addr  netip.Addr
		right func(netip.Addr) bool
	}{{"IPv4Address", c.IPv4Address, netip.Addr.Is4}, {"IPv6Address", c.IPv6Address, netip.Addr.Is6}} {
		switch {
		case !want.addr.IsValid():
		case want.addr.Zone() != "" || !want.right(want.addr.Unmap()):
			return nil, invalid(want.field, want.addr.String(), "is no address of this family",
				"use the form 10.5.0.7 or fd00:5::7, without length and zone")
		default:
			out = append(out, want.addr.Unmap())
		}
	}
	return out, nil
}

func encodeNetwork(n server.NetworkView) network.Inspect {
	out := network.Inspect{Containers: map[string]network.EndpointResource{}, Network: network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: string(n.Scope), Driver: n.Driver, EnableIPv4: n.IPv4,
		EnableIPv6: n.IPv6, Internal: n.Internal, ConfigOnly: n.ConfigOnly,
		Attachable: n.Attachable || n.Cluster != nil,
		ConfigFrom: network.ConfigReference{Network: n.ConfigFrom}, Options: n.Options, Labels: n.Labels,
		IPAM: network.IPAM{Driver: cnm.DefaultIPAM, Config: []network.IPAMConfig{}},
	}}
	if n.Cluster != nil {
		out.Scope = "global" // what Docker calls the reach of a cluster that is no swarm
	}
	if n.IPAM != nil {
		out.IPAM.Driver, out.IPAM.Options = n.IPAM.Driver, n.IPAM.Options
	}
	for _, m := range []*map[string]string{&out.Options, &out.Labels, &out.IPAM.Options} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
	for _, p := range n.Pools {
		c := network.IPAMConfig{Subnet: p.Subnet, Gateway: p.Gateway, AuxAddress: p.Aux}
		if p.Range != p.Subnet {
			c.IPRange = p.Range
		}
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	for _, p := range n.Config {
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: p.Subnet, IPRange: p.Range,
			Gateway: p.Gateway, AuxAddress: p.Aux})
	}
	for _, e := range n.Endpoints {
		key := e.ContainerID
		if key == "" {
			key = "ep-" + e.ID // nobody's, or of something that is no container
		}
		four, six := byFamily(e.Addrs)
		out.Containers[key] = network.EndpointResource{Name: e.ContainerName, EndpointID: e.ID,
			MacAddress: hardware(e.MAC), IPv4Address: four, IPv6Address: six}
	}
	return out
}

// encodeEndpoint is an endpoint as the inspection of its container has it.
func encodeEndpoint(e server.EndpointView) *network.EndpointSettings {
	four, six := byFamily(e.Addrs)
	out := &network.EndpointSettings{Aliases: e.Aliases, GwPriority: e.GwPriority, NetworkID: e.Network,
		EndpointID: e.ID, MacAddress: hardware(e.MAC), IPAddress: four.Addr(), GlobalIPv6Address: six.Addr(),
		DNSNames: append([]string{e.Name}, e.Aliases...)}
	if four.IsValid() {
		out.IPPrefixLen = four.Bits()
	}
	if six.IsValid() {
		out.GlobalIPv6PrefixLen = six.Bits()
	}
	for _, g := range e.Gateways {
		if g.Is4() {
			out.Gateway = g
		} else {
			out.IPv6Gateway = g
		}
	}
	return out
}

// byFamily are the first addresses of each family.
func byFamily(addrs []netip.Prefix) (four, six netip.Prefix) {
	for _, a := range slices.Backward(addrs) {
		if a.Addr().Is4() {
			four = a
		} else {
			six = a
		}
	}
	return four, six
}

// hardware is empty for the zero address.
func hardware(m plan.MAC) network.HardwareAddr {
	if m == (plan.MAC{}) {
		return nil
	}
	return network.HardwareAddr(m[:])
}
