package overlay

import (
	"fmt"
	"strconv"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
)

// Identifiers of tunnels.
const (
	tunnelKind  = "vxlan"
	firstVNI    = 1 << 16 // the first that is given out: Docker's swarm counts from 4096, at the same port
	lastVNI     = 1<<24 - 1
	defaultPort = 4789 // assigned to VXLAN by IANA
)

// Options are an overlay network's options, decoded.
type Options struct {
	Bridge bridge.Options
	VNI    uint32 // 0: one that no other network has
	Port   uint16 // UDP
	// Multicast has broadcast and multicast frames go to every node that has endpoints of the network.
	Multicast bool
}

func knownOptions() []bridge.Option[Options] {
	return append(bridge.OptionsIn(func(o *Options) *bridge.Options { return &o.Bridge }),
		bridge.Option[Options]{Name: "multicast",
			Set: bridge.Bool(func(o *Options) *bool { return &o.Multicast })},
		bridge.Option[Options]{Name: "port", Set: func(o *Options, value string) error {
			n, err := number(value, 1<<16-1)
			o.Port = uint16(n)
			return err
		}},
		bridge.Option[Options]{Name: "vni", Alias: "com.docker.network.driver.overlay.vxlanid_list",
			Set: func(o *Options, value string) error {
				n, err := number(value, lastVNI)
				o.VNI = uint32(n)
				return err
			}},
	)
}

func number(value string, last uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 || n > last {
		return 0, fmt.Errorf("want a number from 1 to %d", last)
	}
	return n, nil
}

// Option implements [cnm.Updater].
func (Driver) Option(name string) (own string, inPlace bool) {
	return bridge.OptionOf(knownOptions(), append(bridge.Fixed(), "port", "vni"), name)
}

// DecodeOptions decodes a network's options: the bridge's, and multicast, vni and port. An unknown name and a malformed
// value are errors that say so.
func DecodeOptions(given map[string]string) (Options, error) {
	o := Options{Bridge: bridge.Defaults(), Port: defaultPort, Multicast: true}
	if err := bridge.Decode(name, knownOptions(), given, &o); err != nil {
		return Options{}, err
	}
	return o, o.Bridge.Settle()
}

// options decodes a network's options; the error names the network and is a [cnm.ErrInvalid].
func options(n cnm.Network) (Options, error) {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return Options{}, invalid(fmt.Errorf("network %s: %w", n.Name, err))
	}
	return o, nil
}

// invalid marks an error as the fault of the request.
func invalid(err error) error { return &cnm.Error{Kind: cnm.ErrInvalid, Reason: err.Error()} }
