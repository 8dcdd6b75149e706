package macvlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

const name = "macvlan"

// lastVLAN is the largest identifier of a VLAN (IEEE 802.1Q).
const lastVLAN = 4094

// Options are a macvlan network's options, decoded.
type Options struct {
	Parent string // the host's link to the LAN
	VLAN   uint16 // 0: the parent as it is; else a VLAN of it that is made for the network
	Mode   string // one of plan.MacvlanModes
	MTU    int    // bytes; 0: that of the parent
	Routes bridge.Routes
	Detect bool // the LAN is asked whether anybody has an address before it is given
	// Host is whether the host reaches the endpoints, and HostAddrs the addresses that it has for that.
	Host      bool
	HostAddrs []netip.Addr

	untagged bool // vlan=none: a dot in the parent's name means nothing
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
		{Name: "mode", Alias: "macvlan_mode", Set: setMode},
		{Name: "mtu", Alias: "com.docker.network.driver.mtu", Set: func(o *Options, value string) (err error) {
			if o.MTU, err = strconv.Atoi(value); err != nil || o.MTU < 68 || o.MTU > 65535 {
				return errors.New("want a number of bytes from 68 to 65535")
			}
			return nil
		}},
		{Name: "parent", Set: func(o *Options, value string) error { o.Parent = value; return nil }},
		{Name: "routes", Set: func(o *Options, value string) error { return o.Routes.Set(value) }},
		{Name: "vlan", Set: setVLAN},
	}
}

func setMode(o *Options, value string) error {
	if !slices.Contains(plan.MacvlanModes(), value) {
		return fmt.Errorf("want %s", strings.Join(plan.MacvlanModes(), ", "))
	}
	o.Mode = value
	return nil
}

func setVLAN(o *Options, value string) error {
	if value == "none" {
		o.untagged = true
		return nil
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 || n > lastVLAN {
		return fmt.Errorf("want a number from 1 to %d, or none", lastVLAN)
	}
	o.VLAN = uint16(n)
	return nil
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
	if o.Parent == "" {
		return errors.New("no option parent: name the host's link to the LAN, as in -o parent=eth0")
	}
	if base, tag, dotted := cutLast(o.Parent, '.'); dotted && o.VLAN == 0 && !o.untagged {
		if err := setVLAN(o, tag); err == nil { // eth0.100, as Docker has it
			o.Parent = base
		}
	}
	switch {
	case len(o.Parent) > 15 || strings.ContainsAny(o.Parent, "/ \t\n") || o.Parent == "." || o.Parent == "..":
		return fmt.Errorf("option parent=%q: not the name of a link", o.Parent)
	case linkname.IsOurs(o.Parent) || o.Parent == "lo":
		return fmt.Errorf("option parent=%s: not a link to a LAN", o.Parent)
	case o.Host && o.Mode != "bridge":
		return fmt.Errorf("option host-access: with mode=%s the kernel lets no other link of the host reach the "+
			"endpoints; leave one of the two out", o.Mode)
	case o.VLAN != 0 && o.untagged:
		return errors.New("option vlan: a number and none exclude each other")
	}
	return nil
}

// cutLast cuts text at the last separator.
func cutLast(text string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(text, sep); i > 0 {
		return text[:i], text[i+1:], true
	}
	return text, "", false
}

// lower is the link that the network's links sit on.
func (o Options) lower(n cnm.Network) string {
	if o.VLAN != 0 {
		return linkname.Of(linkname.VLAN, n.ID)
	}
	return o.Parent
}

// lan is the LAN in the words of ip-link(8).
func (o Options) lan() string {
	if o.VLAN != 0 {
		return o.Parent + "." + strconv.Itoa(int(o.VLAN))
	}
	return o.Parent
}
