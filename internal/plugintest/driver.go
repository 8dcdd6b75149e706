package plugintest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
)

// request has the fields of all requests that the plugin heeds.
type request struct {
	NetworkID, EndpointID string
	IPv4Data              []struct{ Gateway string }
	Pool, SubPool, PoolID string
	Address               string
	Options               map[string]any
	V6                    bool
	Interface             struct{ MacAddress string }
}

var nothing = struct{}{}

func (s *server) dispatch(method string, body []byte) (any, error) {
	var r request
	if len(body) > 0 {
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
	}
	do := map[string]func(request) (any, error){
		"Plugin.Activate": func(request) (any, error) {
			return map[string]any{"Implements": []string{"NetworkDriver", "IpamDriver"}}, nil
		},
		"NetworkDriver.GetCapabilities": func(request) (any, error) {
			return map[string]string{"Scope": "local", "ConnectivityScope": "global"}, nil
		},
		"NetworkDriver.CreateNetwork":  s.createNetwork,
		"NetworkDriver.DeleteNetwork":  s.deleteNetwork,
		"NetworkDriver.CreateEndpoint": s.createEndpoint,
		"NetworkDriver.DeleteEndpoint": s.deleteEndpoint,
		"NetworkDriver.EndpointOperInfo": func(r request) (any, error) {
			return map[string]any{"Value": map[string]string{"id": r.EndpointID}}, nil
		},
		"NetworkDriver.Join":                        s.join,
		"NetworkDriver.Leave":                       s.leave,
		"NetworkDriver.ProgramExternalConnectivity": s.external(true),
		"NetworkDriver.RevokeExternalConnectivity":  s.external(false),
		"NetworkDriver.AllocateNetwork": func(request) (any, error) {
			return map[string]any{"Options": map[string]string{"vni": "7"}}, nil
		},
		"NetworkDriver.FreeNetwork":    func(request) (any, error) { return nothing, nil },
		"NetworkDriver.DiscoverNew":    func(request) (any, error) { return nothing, nil },
		"NetworkDriver.DiscoverDelete": func(request) (any, error) { return nothing, nil },
		"IpamDriver.GetDefaultAddressSpaces": func(request) (any, error) {
			return map[string]string{"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there"}, nil
		},
		"IpamDriver.GetCapabilities": func(request) (any, error) { return nothing, nil },
		"IpamDriver.RequestPool":     s.requestPool,
		"IpamDriver.ReleasePool":     s.releasePool,
		"IpamDriver.RequestAddress":  s.requestAddress,
		"IpamDriver.ReleaseAddress":  s.releaseAddress,
	}[method]
	if do == nil {
		return nil, errors.ErrUnsupported
	}
	return do(r)
}

// ip runs ip(8) commands, one after the other.
func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

func (s *server) createNetwork(r request) (any, error) {
	if _, ok := s.state.Networks[r.NetworkID]; ok {
		return nil, fmt.Errorf("network %.12s exists", r.NetworkID)
	}
	n := network{Bridge: "tpb" + r.NetworkID[:8]}
	if err := ip("link add "+n.Bridge+" type bridge", "link set "+n.Bridge+" up"); err != nil {
		return nil, err
	}
	if len(r.IPv4Data) > 0 && r.IPv4Data[0].Gateway != "" {
		n.Gateway = r.IPv4Data[0].Gateway
		if err := ip("addr add " + n.Gateway + " dev " + n.Bridge); err != nil {
			return nil, err
		}
	}
	s.state.Networks[r.NetworkID] = n
	return nothing, nil
}

func (s *server) deleteNetwork(r request) (any, error) {
	n, ok := s.state.Networks[r.NetworkID]
	if !ok {
		return nil, fmt.Errorf("network %.12s is unknown", r.NetworkID)
	}
	delete(s.state.Networks, r.NetworkID)
	return nothing, ip("link del " + n.Bridge)
}

func (s *server) createEndpoint(r request) (any, error) {
	n, ok := s.state.Networks[r.NetworkID]
	if _, exists := s.state.Endpoints[r.EndpointID]; !ok || exists {
		return nil, fmt.Errorf("endpoint %.12s: network known %v, endpoint known %v", r.EndpointID, ok, exists)
	}
	e := endpoint{Network: r.NetworkID, Host: "tph" + r.EndpointID[:8], Inside: "tpc" + r.EndpointID[:8]}
	if err := ip("link add "+e.Host+" type veth peer name "+e.Inside, "link set "+e.Host+" master "+n.Bridge+" up",
		"link set "+e.Inside+" mtu 1400"); err != nil {
		return nil, err
	}
	s.state.Endpoints[r.EndpointID] = e
	if r.Interface.MacAddress != "" {
		return nothing, nil
	}
	return map[string]any{"Interface": map[string]string{"MacAddress": "02:77:" + colons(r.EndpointID[:8])}}, nil
}

// colons writes eight hex digits as a part of a hardware address.
func colons(hex string) string {
	return strings.Join([]string{hex[:2], hex[2:4], hex[4:6], hex[6:8]}, ":")
}

// known finds an endpoint.
func (s *server) known(r request) (endpoint, error) {
	e, ok := s.state.Endpoints[r.EndpointID]
	if !ok {
		return e, fmt.Errorf("endpoint %.12s is unknown", r.EndpointID)
	}
	return e, nil
}

func (s *server) deleteEndpoint(r request) (any, error) {
	e, err := s.known(r)
	if err != nil {
		return nil, err
	}
	delete(s.state.Endpoints, r.EndpointID)
	_ = ip("link del " + e.Host) // it may have gone with the container
	return nothing, nil
}

func (s *server) join(r request) (any, error) {
	e, err := s.known(r)
	if err != nil || e.Joined {
		return nil, fmt.Errorf("endpoint %.12s: %v, joined %v", r.EndpointID, err, e.Joined)
	}
	e.Joined = true
	s.state.Endpoints[r.EndpointID] = e
	gateway, _, _ := strings.Cut(s.state.Networks[r.NetworkID].Gateway, "/")
	answer := map[string]any{"InterfaceName": map[string]string{"SrcName": e.Inside, "DstPrefix": "tp"}}
	if gateway != "" {
		answer["Gateway"] = gateway
		answer["StaticRoutes"] = []map[string]any{{"Destination": "198.51.100.0/24", "NextHop": gateway}}
	}
	return answer, nil
}

func (s *server) leave(r request) (any, error) {
	e, err := s.known(r)
	if err != nil || !e.Joined {
		return nil, fmt.Errorf("endpoint %.12s: %v, joined %v", r.EndpointID, err, e.Joined)
	}
	e.Joined = false
	s.state.Endpoints[r.EndpointID] = e
	return nothing, nil
}

func (s *server) external(on bool) func(request) (any, error) {
	return func(r request) (any, error) {
		e, err := s.known(r)
		if err != nil {
			return nil, err
		}
		e.External = on
		s.state.Endpoints[r.EndpointID] = e
		return nothing, nil
	}
}

// poolID is the same for the same prefix.
func poolID(prefix string) string { return "here/" + prefix }

func (s *server) requestPool(r request) (any, error) {
	if r.Pool == "" {
		r.Pool = "10.77.0.0/24"
		if r.V6 {
			r.Pool = "fd00:77::/64"
		}
	}
	if p, ok := s.state.Pools[poolID(r.Pool)]; ok && len(p.Given) > 0 { // until then it may be asked for again
		return nil, fmt.Errorf("pool %s is taken", r.Pool)
	}
	s.state.Pools[poolID(r.Pool)] = pool{Prefix: r.Pool}
	return map[string]any{"PoolID": poolID(r.Pool), "Pool": r.Pool, "Data": map[string]string{}}, nil
}

func (s *server) releasePool(r request) (any, error) {
	if _, ok := s.state.Pools[r.PoolID]; !ok {
		return nil, fmt.Errorf("pool %s is unknown", r.PoolID)
	}
	delete(s.state.Pools, r.PoolID)
	return nothing, nil
}

func (s *server) requestAddress(r request) (any, error) {
	p, ok := s.state.Pools[r.PoolID]
	if !ok {
		return nil, fmt.Errorf("pool %s is unknown", r.PoolID)
	}
	prefix, err := netip.ParsePrefix(p.Prefix)
	if err != nil {
		return nil, err
	}
	a := r.Address
	for next := prefix.Addr().Next(); a == "" && prefix.Contains(next); next = next.Next() {
		if !slices.Contains(p.Given, next.String()) {
			a = next.String()
		}
	}
	if a == "" || slices.Contains(p.Given, a) {
		return nil, fmt.Errorf("address %q is taken", a)
	}
	p.Given = append(p.Given, a)
	s.state.Pools[r.PoolID] = p
	return map[string]any{"Address": fmt.Sprintf("%s/%d", a, prefix.Bits()), "Data": map[string]string{}}, nil
}

func (s *server) releaseAddress(r request) (any, error) {
	p := s.state.Pools[r.PoolID]
	i := slices.Index(p.Given, r.Address)
	if i < 0 {
		return nil, fmt.Errorf("address %q is not given", r.Address)
	}
	p.Given = slices.Delete(slices.Clone(p.Given), i, i+1)
	s.state.Pools[r.PoolID] = p
	return nothing, nil
}
