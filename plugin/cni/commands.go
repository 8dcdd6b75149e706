package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vethloom/vethloom/plugin/attach"
)

// How long netd may take. Engines wait for some minutes.
const (
	callTime   = 70 * time.Second
	statusTime = 2 * time.Second
)

// The codes of errors that are this plugin's own (specification, section 5: 100 and above).
const (
	errConflict  = 100 // something is taken
	errFailed    = 101 // all that is none of the others
	errNoPlugin  = 50  // of STATUS: nothing can be attached
	errExhausted = 51  // of STATUS: nothing more can be attached; what is there goes on
)

// Commands are the plugin's answers.
func Commands() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status}
}

func add(a *skel.CmdArgs) error {
	c, err := readConfig(a.StdinData)
	if err != nil {
		return err
	}
	if c.alone != nil {
		return c.reserve(a)
	}
	result, err := c.previous()
	if err != nil {
		return err
	}
	r, err := c.request(attach.Attach, a)
	if err != nil {
		return err
	}
	answer, err := do(c, r, callTime)
	if err != nil {
		return coded(attach.Attach, err)
	}
	if result == nil {
		result = &types100.Result{}
	}
	c.append(result, a, answer.Result)
	return types.PrintResult(result, c.CNIVersion)
}

func do(c config, r attach.Request, limit time.Duration) (*attach.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer, err := attach.Do(ctx, c.Socket, r)
	if err == nil && answer.Result == nil &&
		slices.Contains([]attach.Call{attach.Attach, attach.Reserve, attach.Check}, r.Call) {
		err = errors.New("netd's answer has no result")
	}
	return answer, err
}

// append adds an attachment to a result: the host's end of the link, the container's, and its addresses.
func (c *config) append(result *types100.Result, a *skel.CmdArgs, r *attach.Result) {
	if r.HostLink != "" {
		result.Interfaces = append(result.Interfaces, &types100.Interface{Name: r.HostLink, Mtu: r.MTU})
	}
	result.Interfaces = append(result.Interfaces, &types100.Interface{Name: r.Interface, Mac: r.MAC, Mtu: r.MTU,
		Sandbox: a.Netns})
	at := len(result.Interfaces) - 1
	for _, p := range r.Addresses {
		result.IPs = append(result.IPs, &types100.IPConfig{Interface: &at, Address: ipNet(p.Prefix),
			Gateway: p.Gateway.AsSlice()})
	}
	result.Routes = append(result.Routes, routes(r)...)
	switch {
	case !c.RuntimeConfig.DNS.IsEmpty():
		result.DNS = c.RuntimeConfig.DNS
	case !c.DNS.IsEmpty():
		result.DNS = c.DNS
	case result.DNS.IsEmpty():
		for _, s := range r.NameServers {
			result.DNS.Nameservers = append(result.DNS.Nameservers, s.String())
		}
	}
}

func routes(r *attach.Result) []*types.Route {
	var out []*types.Route
	for _, way := range r.Routes {
		out = append(out, &types.Route{Dst: ipNet(way.Dst), GW: way.Via.AsSlice()})
	}
	return out
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// del detaches. Where netd is away the detach is left for it, since an engine would keep the container otherwise.
func del(a *skel.CmdArgs) error {
	c, err := readConfig(a.StdinData)
	if err != nil {
		return err
	}
	k := attach.Key{Engine: Engine, Container: a.ContainerID, Interface: a.IfName}
	_, err = do(c, attach.Request{Call: attach.Detach, Key: k, Origin: c.Name}, callTime)
	if e, ok := errors.AsType[*attach.Error](err); ok && e.Kind == attach.Unavailable {
		if later := attach.Later(c.Socket, k); later != nil {
			return coded(attach.Detach, errors.Join(err, later))
		}
		fmt.Fprintf(os.Stderr, "%v; it detaches container %.12s when it is there again\n", err, a.ContainerID)
		return nil
	}
	return coded(attach.Detach, err)
}

func check(a *skel.CmdArgs) error {
	c, err := readConfig(a.StdinData)
	if err != nil {
		return err
	}
	result, err := c.previous()
	if err == nil && result == nil {
		err = types.NewError(types.ErrInvalidNetworkConfig, errNoPrevious.Error(), "")
	}
	if err != nil {
		return err
	}
	r, err := c.request(attach.Check, a)
	if err != nil {
		return err
	}
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) &&
			result.Interfaces[*i].Name == a.IfName && result.Interfaces[*i].Sandbox != "" {
			if p, ok := prefix(ip.Address); ok {
				r.Had = append(r.Had, p)
			}
		}
	}
	_, err = do(c, r, callTime)
	return coded(attach.Check, err)
}

func prefix(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}

// collect detaches what the engine does not have any more.
func collect(a *skel.CmdArgs) error {
	c, err := readConfig(a.StdinData)
	if err != nil {
		return err
	}
	r := attach.Request{Call: attach.Collect, Key: attach.Key{Engine: Engine}, Origin: c.Name}
	for _, v := range append(c.ValidAttachments, c.Earlier...) {
		r.Valid = append(r.Valid, attach.Key{Container: v.ContainerID, Interface: v.IfName})
	}
	_, err = do(c, r, callTime)
	return coded(attach.Collect, err)
}

func status(a *skel.CmdArgs) error {
	c, err := readConfig(a.StdinData)
	if err != nil {
		return err
	}
	r := attach.Request{Call: attach.Ready, Key: attach.Key{Engine: Engine}, Network: c.Network, Create: c.create()}
	_, err = do(c, r, statusTime)
	return coded(attach.Ready, err)
}

// coded gives an error the code that the specification has for it.
func coded(call attach.Call, err error) error {
	if err == nil {
		return nil
	}
	kind := attach.Failed
	if e, ok := errors.AsType[*attach.Error](err); ok {
		kind = e.Kind
	}
	code, ok := map[attach.Kind]uint{
		attach.Invalid: types.ErrInvalidNetworkConfig, attach.NoNetNS: types.ErrInvalidNetNS,
		attach.Conflict: errConflict, attach.Exhausted: types.ErrTryAgainLater,
		attach.Unavailable: types.ErrTryAgainLater, attach.NotFound: types.ErrInvalidNetworkConfig,
	}[kind]
	switch {
	case call == attach.Ready && kind == attach.Exhausted:
		code = errExhausted
	case call == attach.Ready:
		code = errNoPlugin
	case call == attach.Check && kind == attach.NotFound:
		code = types.ErrUnknownContainer
	case !ok:
		code = errFailed
	}
	return types.NewError(code, err.Error(), "")
}
