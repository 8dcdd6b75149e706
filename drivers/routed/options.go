package routed

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
)

// Options are a routed network's options, decoded.
type Options struct {
	Bridge        bridge.Options
	Backend       backend.Options
	SubnetLength  int    // bits of a node's IPv4 subnet; 0: 24, or what the network has room for
	SubnetLength6 int    // bits of a node's IPv6 subnet; 0: 64, or what the network has room for
	FlannelPrefix string // the directory in etcd of a network that flannel has; "": one of our own
}

// The names of the options that are neither the bridge's nor a backend's.
const (
	optionSubnetLength  = "subnet-length"
	optionSubnetLength6 = "subnet-length6"
	optionFlannelPrefix = "flannel.prefix"
)

func knownOptions(b backend.Backend) []bridge.Option[Options] {
	known := bridge.OptionsIn(func(o *Options) *bridge.Options { return &o.Bridge })
	known = append(known,
		bridge.Option[Options]{Name: optionSubnetLength,
			Set: number(1, 30, func(o *Options, n uint64) { o.SubnetLength = int(n) })},
		bridge.Option[Options]{Name: optionSubnetLength6,
			Set: number(1, 126, func(o *Options, n uint64) { o.SubnetLength6 = int(n) })},
		bridge.Option[Options]{Name: optionFlannelPrefix, Set: setFlannelPrefix},
	)
	for _, k := range []bridge.Option[Options]{
		{Name: backend.OptionVNI,
			Set: number(1, vxlan.MaxVNI, func(o *Options, n uint64) { o.Backend.VNI = uint32(n) })},
		{Name: backend.OptionPort, Set: number(1, 65535, func(o *Options, n uint64) { o.Backend.Port = uint16(n) })},
		{Name: backend.OptionDirectRouting,
			Set: bridge.Bool(func(o *Options) *bool { return &o.Backend.DirectRouting })},
		{Name: backend.OptionOffload, Set: setOffload},
	} {
		if slices.Contains(b.Options(), k.Name) {
			known = append(known, k)
		}
	}
	return known
}

// Option implements [cnm.Updater]. What the nodes' leases and the tunnel are made from stays.
func (d Driver) Option(name string) (own string, inPlace bool) {
	fixed := append(bridge.Fixed(), optionSubnetLength, optionSubnetLength6, optionFlannelPrefix)
	return bridge.OptionOf(knownOptions(d.Backend), append(fixed, d.Backend.Options()...), name)
}

// Decode decodes a network's options. An unknown name, a malformed value and options that exclude each
// other are errors that say so.
func (d Driver) Decode(n cnm.Network) (Options, error) {
	o := Options{Bridge: bridge.Defaults()}
	if len(n.Options) > 0 { // as each peer's render asks
		if err := bridge.Decode(d.Name(), knownOptions(d.Backend), n.Options, &o); err != nil {
			return Options{}, err
		}
	}
	if err := o.Bridge.Settle(); err != nil {
		return Options{}, err
	}
	if err := d.tunnelOptions(n.Options, o.Backend); err != nil {
		return Options{}, err
	}
	for _, f := range []struct {
		name string
		bits int
		on   bool
	}{{optionSubnetLength, o.SubnetLength, n.IPv4}, {optionSubnetLength6, o.SubnetLength6, n.IPv6}} {
		// What a directory in etcd has decides which families are on, which is not known before it is read.
		if f.bits != 0 && !f.on && o.FlannelPrefix == "" {
			return Options{}, fmt.Errorf(
				"option %s=%d: the network has no subnets of that family: turn the family on or leave the option out",
				f.name, f.bits)
		}
	}
	return o, nil
}

// tunnelOptions refuses what is said of a tunnel that the network does not have.
func (d Driver) tunnelOptions(given map[string]string, o backend.Options) error {
	if d.Backend.Tunnel(o) != (cnm.TunnelRequest{}) {
		return nil
	}
	for _, name := range []string{backend.OptionVNI, backend.OptionPort} {
		if value, ok := given[name]; ok {
			return fmt.Errorf("option %s=%s: routes without a tunnel have none: add %s=true, or leave the option out",
				name, value, backend.OptionDirectRouting)
		}
	}
	return nil
}

func number(low, high uint64, set func(*Options, uint64)) func(*Options, string) error {
	return func(o *Options, value string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("want a number from %d to %d", low, high)
		}
		set(o, n)
		return nil
	}
}

func setOffload(o *Options, value string) error {
	switch value {
	case "on", "off":
		o.Backend.Plain = value == "off"
		return nil
	}
	return fmt.Errorf("want on or off")
}

func setFlannelPrefix(o *Options, value string) error {
	if !strings.HasPrefix(value, "/") || path.Clean(value) != value || value == "/" {
		return fmt.Errorf("want a directory in etcd from the root on, such as /coreos.com/network")
	}
	o.FlannelPrefix = value
	return nil
}
