package remote

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
)

// makeNetwork has the plugin make a network. One of which it is not known whether it has made it is taken back first.
func (k *Caller) makeNetwork(ctx context.Context, s subject) error {
	c := &s.call
	if c.Step == cnm.StepCreate && c.Done {
		return nil
	}
	c.Driver, c.Network = s.network.Driver, s.network.ID
	if c.Step != "" {
		if err := k.deleteNetwork(ctx, c); err != nil {
			return unusable(c.Driver, err)
		}
	}
	err := k.ask(ctx, c, cnm.StepCreate, func(p plugin.Network) error {
		return p.CreateNetwork(ctx, networkConfig(s.network))
	})
	if err != nil {
		return k.refused(ctx, c, err)
	}
	return k.write(ctx, c)
}

// refused is why a plugin did not make something. When it says so itself, there is nothing to take back.
func (k *Caller) refused(ctx context.Context, c *cnm.Call, err error) error {
	if _, ok := errors.AsType[*plugin.Refusal](err); ok {
		return errors.Join(unusable(c.Driver, err), k.forget(ctx, c))
	}
	if errors.Is(err, cnm.ErrUnavailable) {
		return err
	}
	return unusable(c.Driver, err)
}

func (k *Caller) deleteNetwork(ctx context.Context, c *cnm.Call) error {
	err := k.tell(ctx, c, cnm.StepDelete, func(p plugin.Network) error { return p.DeleteNetwork(ctx, c.Network) })
	if err != nil {
		return err
	}
	return k.forget(ctx, c)
}

// removeNetwork has the plugin remove a network, after what it still has of endpoints on it.
func (k *Caller) removeNetwork(ctx context.Context, s subject) error {
	calls, err := cnm.ListCalls(ctx, k.cfg.Store)
	if err != nil {
		return err
	}
	for _, c := range calls {
		if c.Endpoint == "" || c.Network != s.call.Network {
			continue
		}
		// No endpoint is on a network that goes, so the kernel has nothing of it.
		m := mode{after: true, patient: true}
		if err := k.agree(ctx, m, cnm.KindEndpoint, cnm.Short(c.Endpoint)); err != nil {
			return err
		}
	}
	return k.deleteNetwork(ctx, &s.call)
}

// makeEndpoint has the plugin make an endpoint and have the sandbox join it. A step of which it is not known whether it
// was made is taken back, and made again.
func (k *Caller) makeEndpoint(ctx context.Context, m mode, s subject) error {
	c, e := &s.call, s.endpoint
	if settled(s) {
		return nil
	}
	if m.after {
		return nil // the record has changed since; who changed it asks for another pass
	}
	if err := k.agree(ctx, m, cnm.KindNetwork, cnm.Short(e.Network)); err != nil {
		return err
	}
	c.Driver, c.Network, c.Endpoint, c.NetNS = s.network.Driver, e.Network, e.ID, e.NetNS
	for !settled(s) {
		if err := k.advance(ctx, &s); err != nil {
			return k.refused(ctx, c, err)
		}
	}
	return k.write(ctx, c)
}

// settled reports whether the plugin has made all that an endpoint's record asks for.
func settled(s subject) bool {
	c := s.call
	if !c.Done {
		return false
	}
	if !publishes(s) {
		return c.Step == cnm.StepJoin
	}
	return c.Step == cnm.StepPublish && samePorts(c.Published, s.endpoint.Ports)
}

func samePorts(a, b []cnm.PortMapping) bool { return len(a)+len(b) == 0 || reflect.DeepEqual(a, b) }

// publishes reports whether an endpoint is to be reached from outside, or to reach it.
func publishes(s subject) bool { return !s.network.Internal }

// advance makes the next call.
func (k *Caller) advance(ctx context.Context, s *subject) error {
	c := &s.call
	switch {
	case c.Step == "":
		return k.create(ctx, s)
	case c.Step == cnm.StepDelete, c.Step == cnm.StepCreate && !c.Done:
		return k.delete(ctx, c)
	case c.Step == cnm.StepCreate:
		return k.join(ctx, s)
	case c.Step == cnm.StepLeave, c.Step == cnm.StepJoin && !c.Done:
		return k.leave(ctx, c, cnm.StepCreate)
	case c.Step == cnm.StepJoin:
		return k.publish(ctx, s)
	}
	return k.revoke(ctx, c)
}

func (k *Caller) create(ctx context.Context, s *subject) error {
	c, e := &s.call, s.endpoint
	last, err := k.cfg.LastLink(ctx)
	if err != nil {
		return err
	}
	c.Given = cnm.Given{After: last}
	return k.ask(ctx, c, cnm.StepCreate, func(p plugin.Network) error {
		i, err := p.CreateEndpoint(ctx, endpointConfig(s.network, e))
		if err != nil {
			return err
		}
		c.Given.MAC, err = takeInterface(i, e)
		return odd("CreateEndpoint", err)
	})
}

// odd is why an answer is not taken.
func odd(method string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("its answer to %s is not taken: %w", method, err)
}

func (k *Caller) join(ctx context.Context, s *subject) error {
	c, e := &s.call, s.endpoint
	err := k.ask(ctx, c, cnm.StepJoin, func(p plugin.Network) error {
		j, err := p.Join(ctx, plugin.JoinConfig{NetworkID: e.Network, EndpointID: e.ID,
			SandboxKey: k.cfg.SandboxKey(e.NetNS), Options: map[string]any{}})
		if err != nil {
			return err
		}
		return odd("Join", takeJoined(j, e, &c.Given))
	})
	return k.stepBack(ctx, c, cnm.StepCreate, err)
}

// stepBack notes that a plugin refused a step, so that the one before it is the last.
func (k *Caller) stepBack(ctx context.Context, c *cnm.Call, to cnm.Step, err error) error {
	if _, ok := errors.AsType[*plugin.Refusal](err); !ok {
		return err
	}
	c.Step, c.Done = to, true
	return errors.Join(unusable(c.Driver, errors.New(err.Error())), k.write(ctx, c))
}

func (k *Caller) publish(ctx context.Context, s *subject) error {
	c, e := &s.call, s.endpoint
	c.Published = e.Ports
	err := k.ask(ctx, c, cnm.StepPublish, func(p plugin.Network) error {
		return p.ProgramExternalConnectivity(ctx, e.Network, e.ID, portOptions(e))
	})
	return k.stepBack(ctx, c, cnm.StepJoin, err)
}

func (k *Caller) revoke(ctx context.Context, c *cnm.Call) error {
	err := k.tell(ctx, c, cnm.StepRevoke, func(p plugin.Network) error {
		return p.RevokeExternalConnectivity(ctx, c.Network, c.Endpoint)
	})
	if err == nil {
		c.Step, c.Published = cnm.StepJoin, nil
	}
	return err
}

// leave has the sandbox leave the endpoint, and then be as after the step given.
func (k *Caller) leave(ctx context.Context, c *cnm.Call, then cnm.Step) error {
	err := k.tell(ctx, c, cnm.StepLeave, func(p plugin.Network) error { return p.Leave(ctx, c.Network, c.Endpoint) })
	if err == nil {
		c.Step = then
	}
	return err
}

func (k *Caller) delete(ctx context.Context, c *cnm.Call) error {
	err := k.tell(ctx, c, cnm.StepDelete, func(p plugin.Network) error {
		return p.DeleteEndpoint(ctx, c.Network, c.Endpoint)
	})
	if err != nil {
		return err
	}
	return k.forget(ctx, c)
}

// removeEndpoint has the sandbox leave an endpoint and, once the kernel has nothing of it, the plugin remove it.
func (k *Caller) removeEndpoint(ctx context.Context, m mode, s subject) error {
	c := &s.call
	for c.Step != "" {
		var err error
		switch {
		case c.Step == cnm.StepPublish, c.Step == cnm.StepRevoke:
			err = k.revoke(ctx, c)
		case c.Step == cnm.StepJoin, c.Step == cnm.StepLeave && !c.Done:
			err = k.leave(ctx, c, cnm.StepLeave)
		case c.Step == cnm.StepLeave && !m.after:
			return k.write(ctx, c)
		default:
			err = k.delete(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// networkConfig is a network as the plugin is told of it. Its name is no part of the protocol.
func networkConfig(n cnm.Network) plugin.NetworkConfig {
	generic := map[string]any{}
	for key, value := range n.Options {
		generic[key] = value
	}
	c := plugin.NetworkConfig{NetworkID: n.ID, Options: map[string]any{
		"com.docker.network.generic": generic, "com.docker.network.enable_ipv4": n.IPv4,
		"com.docker.network.enable_ipv6": n.IPv6}, IPv4Data: []plugin.IPData{}, IPv6Data: []plugin.IPData{}}
	if n.Internal {
		c.Options["com.docker.network.internal"] = true
	}
	for _, p := range n.Pools {
		d := plugin.IPData{AddressSpace: "LocalDefault", Pool: p.Subnet.String()}
		if p.Gateway.IsValid() {
			d.Gateway = fmt.Sprintf("%s/%d", p.Gateway, p.Subnet.Bits())
		}
		for name, a := range p.Aux {
			if d.AuxAddresses == nil {
				d.AuxAddresses = map[string]any{}
			}
			d.AuxAddresses[name] = fmt.Sprintf("%s/%d", a, p.Subnet.Bits())
		}
		if p.Subnet.Addr().Is4() {
			c.IPv4Data = append(c.IPv4Data, d)
		} else {
			c.IPv6Data = append(c.IPv6Data, d)
		}
	}
	return c
}

// endpointConfig is an endpoint as the plugin is told of it: with its addresses, and with a hardware address only when
// somebody has asked for one.
func endpointConfig(n cnm.Network, e cnm.Endpoint) plugin.EndpointConfig {
	i := &plugin.Interface{MacAddress: e.MAC.String()}
	for _, a := range e.Addrs {
		if a.Addr().Is4() {
			i.Address = a.String()
		} else {
			i.AddressIPv6 = a.String()
		}
	}
	return plugin.EndpointConfig{NetworkID: n.ID, EndpointID: e.ID, Interface: i, Options: portOptions(e)}
}

// protocols are the numbers of what ports are of (IANA).
var protocols = map[string]int{"tcp": 6, "udp": 17, "sctp": 132}

// portOptions are an endpoint's ports, each by itself.
func portOptions(e cnm.Endpoint) map[string]any {
	type exposed struct{ Proto, Port int }
	type binding struct {
		Proto                 int
		IP                    string
		Port                  int
		HostIP                string
		HostPort, HostPortEnd int
	}
	ports, bindings := []exposed{}, []binding{}
	for _, p := range e.Ports {
		proto := protocols[strings.ToLower(string(p.Proto))]
		for i := range int(p.Count) {
			b := binding{Proto: proto, Port: int(p.Port) + i, HostPort: int(p.HostPort) + i,
				HostPortEnd: int(p.HostPort) + i}
			if p.HostIP.IsValid() {
				b.HostIP = p.HostIP.String()
			}
			ports, bindings = append(ports, exposed{proto, b.Port}), append(bindings, b)
		}
	}
	return map[string]any{"com.docker.network.endpoint.exposedports": ports, "com.docker.network.portmap": bindings}
}
