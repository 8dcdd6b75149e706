package server

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// This file takes protocol messages apart: strings become addresses, prefixes
// and ports here, once.

func decodeNetworkRequest(r *apiv1.CreateNetworkRequest) (cnm.NetworkRequest, error) {
	out := cnm.NetworkRequest{
		Name: r.GetName(), Driver: r.GetDriver(), Internal: r.GetInternal(),
		IPv6: r.GetIpv6(), DisableIPv4: r.GetDisableIpv4(), Options: r.GetOptions(), Labels: r.GetLabels(),
		ConfigOnly: r.GetConfigOnly(), ConfigFrom: r.GetConfigFrom(),
		IPAM: r.GetIpamDriver(), IPAMOptions: r.GetIpamOptions(),
	}
	for _, p := range r.GetPools() {
		pool, err := decodePool(p)
		if err != nil {
			return cnm.NetworkRequest{}, err
		}
		out.Pools = append(out.Pools, pool)
	}
	return out, nil
}

func decodePool(p *apiv1.Pool) (cnm.PoolRequest, error) {
	var out cnm.PoolRequest
	var err error
	if bits, ok := strings.CutPrefix(p.GetSubnet(), "/"); ok {
		if out.Bits, err = strconv.Atoi(bits); err != nil || out.Bits < 1 || out.Bits > 128 {
			return out, invalid("subnet", p.GetSubnet(), "is not a prefix length",
				"use /24 or /64, or a whole subnet such as 10.5.0.0/24")
		}
		out.IPv6 = out.Bits > 32
	} else if p.GetSubnet() != "" {
		if out.Subnet, err = decodePrefix("subnet", p.GetSubnet()); err != nil {
			return out, err
		}
		out.IPv6 = out.Subnet.Addr().Is6()
	}
	if p.GetIpRange() != "" {
		if out.Range, err = decodePrefix("ip-range", p.GetIpRange()); err != nil {
			return out, err
		}
	}
	if p.GetGateway() != "" {
		if out.Gateway, err = decodeAddr("gateway", p.GetGateway()); err != nil {
			return out, err
		}
	}
	for name, a := range p.GetAuxAddresses() {
		addr, err := decodeAddr("aux-address "+name, a)
		if err != nil {
			return out, err
		}
		if out.Aux == nil {
			out.Aux = map[string]netip.Addr{}
		}
		out.Aux[name] = addr
	}
	return out, nil
}

func decodePrefix(field, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, invalid(field, s, "is not a subnet", "use address and length, for example 10.5.0.0/24 or fd00:5::/64")
	}
	if p != p.Masked() {
		return p, invalid(field, s, "has bits set beyond its length", "did you mean "+p.Masked().String()+"?")
	}
	return p, nil
}

func decodeAddr(field, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, invalid(field, s, "is not an IP address",
			"use the form 10.5.0.7 or fd00:5::7, without length and zone")
	}
	return a.Unmap(), nil
}

func decodeMAC(s string) (plan.MAC, error) {
	var m plan.MAC
	if s == "" {
		return m, nil
	}
	parts := strings.Split(s, ":")
	bad := invalid("mac-address", s, "is not a unicast MAC address",
		"use six hexadecimal bytes with the lowest bit of the first unset, for example 02:42:0a:00:00:05")
	if len(parts) != len(m) {
		return m, bad
	}
	for i, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) != 2 {
			return plan.MAC{}, bad
		}
		m[i] = byte(b)
	}
	if m[0]&1 != 0 || m == (plan.MAC{}) {
		return plan.MAC{}, bad
	}
	return m, nil
}

func decodeConnect(c *apiv1.ConnectRequest) (cnm.AttachRequest, error) {
	out := cnm.AttachRequest{Network: c.GetNetwork(), Aliases: c.GetAliases(),
		GwPriority: int(c.GetGatewayPriority()),
		LinkOptions: cnm.LinkOptions{IfName: c.GetIfname(), Sysctls: c.GetSysctls(),
			RateIn: c.GetRateIn(), RateOut: c.GetRateOut()}}
	var err error
	if out.MAC, err = decodeMAC(c.GetMacAddress()); err != nil {
		return out, err
	}
	if out.Addrs, err = decodeAddrs("ip", c.GetAddresses()); err != nil {
		return out, err
	}
	out.Outbound, err = decodeAddrs("outbound-ip", c.GetOutboundAddresses())
	return out, err
}

func decodeAddrs(field string, in []string) (out []netip.Addr, err error) {
	for _, s := range in {
		a, err := decodeAddr(field, s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func decodeConnects(cs []*apiv1.ConnectRequest) ([]cnm.AttachRequest, error) {
	var out []cnm.AttachRequest
	for _, c := range cs {
		r, err := decodeConnect(c)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func decodePorts(ms []*apiv1.PortMapping) ([]cnm.PortMapping, error) {
	var out []cnm.PortMapping
	for _, m := range ms {
		p, err := decodePort(m)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func decodePort(m *apiv1.PortMapping) (cnm.PortMapping, error) {
	var host netip.Addr
	if m.GetHostIp() != "" {
		var err error
		if host, err = decodeAddr("publish", m.GetHostIp()); err != nil {
			return cnm.PortMapping{}, err
		}
	}
	var from []netip.Prefix
	for _, s := range m.GetFrom() {
		p, err := cnm.ParseSource(s)
		if err != nil {
			return cnm.PortMapping{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "publish", Reason: err.Error()}
		}
		from = append(from, p)
	}
	p, err := cnm.NewPortMapping(plan.L4(m.GetProto()), host, m.GetHostPort(), m.GetContainerPort(), m.GetCount(),
		from...)
	if err == nil && m.GetCluster() {
		p, err = p.OnEveryNode()
	}
	return p, err
}

// decodeExposed reads ports and ranges of them: "80", "80/udp", "8000-8010/tcp".
func decodeExposed(texts []string) ([]plan.NamePort, error) {
	var out []plan.NamePort
	for _, text := range texts {
		m, err := cnm.ParsePort(text)
		if err != nil || m.HostPort != 0 || m.HostIP.IsValid() || len(m.From) > 0 || int(m.Count) > maxExposed {
			return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "expose", Value: text, Cause: err,
				Reason: fmt.Sprintf("not a port or a range of at most %d", maxExposed),
				Remedy: "write PORT[-PORT][/tcp|udp|sctp]"}
		}
		for i := range m.Count {
			out = append(out, plan.NamePort{Proto: m.Proto, Port: m.Port + i})
		}
	}
	return out, nil
}

// maxExposed bounds a range of ports that are exposed.
const maxExposed = 1024
