package macvlan

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/drivers/lan"
	"github.com/vethloom/vethloom/plan"
)

const name = "macvlan"

// Options are a macvlan network's options, decoded.
type Options struct {
	lan.Parent
	Mode   string // one of plan.MacvlanModes, or plan.IPvlanModes
	Flag   string // of ipvlan: one of plan.IPvlanFlags
	MTU    int    // bytes; 0: that of the parent
	Routes bridge.Routes
	Detect bool // the LAN is asked whether anybody has an address before it is given
	// Host is whether the host reaches the endpoints, and HostAddrs the addresses that it has for that.
	Host      bool
	HostAddrs []netip.Addr
}

func knownOptions() []bridge.Option[Options] {
	return []bridge.Option[Options]{
		{Name: "duplicate-detection", Set: func(o *Options, value string) (err error) {
			if o.Detect, err = strconv.ParseBool(value); err != nil {
				return errors.New("want true or false")
			}
			return nil
		}},
		{Name: "host-access", Set: setHost},
		{Name: "mode", Alias: "macvlan_mode",
			Set: oneOf(plan.MacvlanModes(), func(o *Options) *string { return &o.Mode })},
		{Name: "mtu", Alias: "com.docker.network.driver.mtu", Set: func(o *Options, value string) (err error) {
			if o.MTU, err = strconv.Atoi(value); err != nil || o.MTU < 68 || o.MTU > 65535 {
				return errors.New("want a number of bytes from 68 to 65535")
			}
			return nil
		}},
		{Name: "parent", Set: func(o *Options, value string) error { return o.SetLink(value) }},
		{Name: "routes", Set: func(o *Options, value string) error { return o.Routes.Set(value) }},
		{Name: "vlan", Set: func(o *Options, value string) error { return o.SetVLAN(value) }},
	}
}

func setHost(o *Options, value string) error {
	if on, err := strconv.ParseBool(value); err == nil {
		o.Host = on
		return nil
	}
	o.Host = true
	for text := range strings.SplitSeq(value, ",") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return errors.New("want true, false, or the host's addresses for it: at most one of each family")
		}
		o.HostAddrs = append(o.HostAddrs, a.Unmap())
	}
	return nil
}

// Option implements [cnm.Updater].
func (Driver) Option(name string) (own string, inPlace bool) {
	return bridge.OptionOf(knownOptions(), []string{"mode", "parent", "vlan"}, name)
}

// DecodeOptions decodes a network's options. An unknown name, a malformed value and options that do not fit each other
// are errors that say so.
func DecodeOptions(given map[string]string) (Options, error) {
	o := Options{Mode: "bridge", Detect: true}
	if err := bridge.Decode(name, knownOptions(), given, &o); err != nil {
		return o, err
	}
	return o, o.settle()
}

// settle makes the options agree with each other.
func (o *Options) settle() error {
	if err := o.Settle(); err != nil {
		return err
	}
	if o.Host && o.Mode != "bridge" {
		return fmt.Errorf("option host-access: with mode=%s the kernel lets no other link of the host reach the "+
			"endpoints; leave one of the two out", o.Mode)
	}
	return nil
}
