package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vethloom/vethloom/cnm"
)

// offered is an offer that nothing is wrong with, changed.
func offered(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		dhcpv4.WithYourIP(net.IP{192, 0, 2, 50}),
		dhcpv4.WithServerIP(net.IP{192, 0, 2, 100}),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{192, 0, 2, 100})),
		dhcpv4.WithNetmask(net.IPMask{255, 255, 255, 0}),
		dhcpv4.WithRouter(net.IP{192, 0, 2, 100}),
		dhcpv4.WithLeaseTime(3600),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func without(code dhcpv4.OptionCode) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) { p.Options.Del(code) }
}

func generic(code dhcpv4.OptionCode, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(code, value)
}

func pool() cnm.Pool {
	return cnm.Pool{Subnet: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.1"),
		Aux: map[string]netip.Addr{"printer": netip.MustParseAddr("192.0.2.9")}}
}

// What no endpoint can have, or can be reached by, is refused.
func TestHostileAnswers(t *testing.T) {
	your := func(a, b, c, d byte) dhcpv4.Modifier { return dhcpv4.WithYourIP(net.IP{a, b, c, d}) }
	routes := dhcpv4.OptionClasslessStaticRoute
	many := []byte{}
	for i := range byte(33) {
		many = append(many, 24, 10, 0, i, 192, 0, 2, 100)
	}
	for name, c := range map[string]struct {
		mod  dhcpv4.Modifier
		want string
	}{
		"unspecified":          {your(0, 0, 0, 0), "no host can have"},
		"loopback":             {your(127, 0, 0, 1), "no host can have"},
		"multicast":            {your(224, 0, 0, 1), "no host can have"},
		"reserved":             {your(250, 0, 0, 1), "no host can have"},
		"broadcast to all":     {your(255, 255, 255, 255), "no host can have"},
		"link-local":           {your(169, 254, 1, 1), "no host can have"},
		"elsewhere":            {your(10, 0, 0, 5), "not in the network's subnet 192.0.2.0/24"},
		"network":              {your(192, 0, 2, 0), "no host of 192.0.2.0/24 can have"},
		"broadcast":            {your(192, 0, 2, 255), "no host of 192.0.2.0/24 can have"},
		"gateway":              {your(192, 0, 2, 1), "the router's"},
		"its own router":       {your(192, 0, 2, 100), "the router's"},
		"kept":                 {your(192, 0, 2, 9), `kept for "printer"`},
		"no server":            {without(dhcpv4.OptionServerIdentifier), "server's address"},
		"multicast server":     {generic(dhcpv4.OptionServerIdentifier, 224, 0, 0, 1), "server's address"},
		"no time":              {without(dhcpv4.OptionIPAddressLeaseTime), "a lease of 0 s"},
		"time of nothing":      {dhcpv4.WithLeaseTime(0), "a lease of 0 s"},
		"too short":            {dhcpv4.WithLeaseTime(3), "a lease of 3 s"},
		"time cut short":       {generic(dhcpv4.OptionIPAddressLeaseTime, 1, 2), "a lease of 0 s"},
		"mask of all":          {dhcpv4.WithNetmask(net.IPMask{0, 0, 0, 0}), "subnet mask"},
		"mask with holes":      {dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0}), "subnet mask"},
		"router elsewhere":     {dhcpv4.WithRouter(net.IP{10, 0, 0, 1}), "router 10.0.0.1"},
		"multicast router":     {dhcpv4.WithRouter(net.IP{224, 0, 0, 1}), "224.0.0.1"},
		"too many routes":      {generic(routes, many...), "33 routes"},
		"route by elsewhere":   {generic(routes, 24, 10, 9, 8, 10, 0, 0, 1), "no other host of"},
		"route by itself":      {generic(routes, 24, 10, 9, 8, 192, 0, 2, 50), "no other host of"},
		"route to loopback":    {generic(routes, 8, 127, 192, 0, 2, 100), "leads nowhere"},
		"route to multicast":   {generic(routes, 4, 224, 192, 0, 2, 100), "leads nowhere"},
		"route to a neighbour": {generic(routes, 32, 192, 0, 2, 7, 192, 0, 2, 100), "is in the network's subnet"},
		"router of all, off":   {generic(routes, 0, 10, 0, 0, 1), "router 10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(offered(t, c.mod))
			if err == nil {
				err = got.within(pool())
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v, want %q", got, err, c.want)
			}
		})
	}
}

// What is right is read, and what is not said is as the RFC has it.
func TestTerms(t *testing.T) {
	routes := dhcpv4.OptionClasslessStaticRoute
	for name, c := range map[string]struct {
		mods []dhcpv4.Modifier
		want string
	}{
		"plain":    {nil, "1h0m0s 30m0s 52m30s 192.0.2.100 []"},
		"for ever": {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(forEver)}, "0s 0s 0s 192.0.2.100 []"},
		"a century": {[]dhcpv4.Modifier{dhcpv4.WithLeaseTime(forEver - 1)},
			"1193046h28m14s 596523h14m7s 1043915h39m42.25s 192.0.2.100 []"},
		"its own times": {[]dhcpv4.Modifier{generic(dhcpv4.OptionRenewTimeValue, 0, 0, 0, 9),
			generic(dhcpv4.OptionRebindingTimeValue, 0, 0, 0, 90)}, "1h0m0s 9s 1m30s 192.0.2.100 []"},
		"times the wrong way round": {[]dhcpv4.Modifier{generic(dhcpv4.OptionRenewTimeValue, 0, 0, 9, 9),
			generic(dhcpv4.OptionRebindingTimeValue, 0, 0, 0, 90)}, "1h0m0s 30m0s 52m30s 192.0.2.100 []"},
		"no router": {[]dhcpv4.Modifier{without(dhcpv4.OptionRouter)}, "1h0m0s 30m0s 52m30s invalid IP []"},
		"routes": {[]dhcpv4.Modifier{generic(routes, 24, 10, 9, 8, 192, 0, 2, 7, 0, 192, 0, 2, 8, 16, 10, 8, 0, 0, 0, 0,
			24, 10, 9, 8, 192, 0, 2, 9)}, // the last is a second one to the same
			"1h0m0s 30m0s 52m30s 192.0.2.8 [{10.9.8.0/24 192.0.2.7} {10.8.0.0/16 invalid IP}]"},
		"routes without a router": {[]dhcpv4.Modifier{generic(routes, 24, 10, 9, 8, 192, 0, 2, 7)},
			"1h0m0s 30m0s 52m30s invalid IP [{10.9.8.0/24 192.0.2.7}]"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(offered(t, c.mods...))
			if err == nil {
				err = got.within(pool())
			}
			text := fmt.Sprint(got.length, got.renew, got.rebind, got.leased.Router, got.leased.Routes)
			if err != nil || text != c.want {
				t.Errorf("%s, %v; want %s", text, err, c.want)
			}
			if got.length != 0 && (got.renew < time.Second || got.rebind <= got.renew || got.length <= got.rebind) {
				t.Errorf("times in a wrong order: %s", text)
			}
		})
	}
}

// FuzzRead: whatever comes, what is taken can be rendered.
func FuzzRead(f *testing.F) {
	f.Add(offered(f).ToBytes())
	f.Add(offered(f, generic(dhcpv4.OptionClasslessStaticRoute, 33, 1, 2, 3, 4, 5, 6, 7, 8)).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		got, err := read(p)
		if err == nil {
			err = got.within(pool())
		}
		if err != nil {
			return
		}
		if !pool().Subnet.Contains(got.addr) || len(got.leased.Routes) > maxRoutes || got.length < 0 {
			t.Errorf("%+v", got)
		}
		for _, r := range got.leased.Routes {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() {
				t.Errorf("route to %s", r.Dst)
			}
		}
	})
}
