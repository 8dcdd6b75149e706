package controller_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// The ports of a container are at the endpoint that its answers leave by, with the numbers they have, and nowhere else.
func TestPortsFollowTheGateway(t *testing.T) {
	w := newWorld(t, nil)
	for i, name := range []string{"web", "back", "vpn"} {
		w.network(t, name, fmt.Sprintf("10.%d.0.0/24", i+1))
	}
	ports := []cnm.PortMapping{{Proto: "tcp", HostPort: 8080, Port: 80, Count: 1},
		{Proto: "tcp", Port: 81, Count: 1, Dynamic: true}}
	s, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Ports: ports,
		Attach: []cnm.AttachRequest{{Network: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	attach := func(network string, priority int) {
		t.Helper()
		r := cnm.AttachRequest{Network: network, GwPriority: priority}
		if _, err := w.Attach(t.Context(), s.ID, r); err != nil {
			t.Fatal(err)
		}
	}
	detach := func(network string) {
		t.Helper()
		if err := w.Detach(t.Context(), s.ID, network); err != nil {
			t.Fatal(err)
		}
	}
	at := func(want map[string]int) {
		t.Helper()
		if err := w.Publish(t.Context(), s.ID, ports); err != nil {
			t.Fatal(err)
		}
		ends, err := w.EndpointsOf(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ends {
			n, err := w.Network(t.Context(), e.Network)
			if err != nil || len(e.Ports) != want[n.Name] {
				t.Errorf("%s has %v, %v, want %d ports", n.Name, e.Ports, err, want[n.Name])
			}
			if len(e.Ports) == 2 && !slices.ContainsFunc(e.Ports, func(m cnm.PortMapping) bool {
				return m.Dynamic && m.HostPort != 0 && m.Port == 81
			}) {
				t.Errorf("%s has %v", n.Name, e.Ports)
			}
		}
		w.consistent(t)
	}
	at(map[string]int{"web": 2})
	attach("back", 0)
	at(map[string]int{"web": 2})
	attach("vpn", 10)
	at(map[string]int{"vpn": 2})
	detach("vpn")
	at(map[string]int{"web": 2}) // again, though nobody had them
	detach("web")
	at(map[string]int{"back": 2})
	detach("back")
	at(nil)
	// A port that somebody has taken meanwhile is an error, and nothing changes.
	other, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Ports: ports[:1],
		Attach: []cnm.AttachRequest{{Network: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	attach("back", 0)
	var taken *cnm.PortTakenError
	if err := w.Publish(t.Context(), s.ID, ports); !errors.As(err, &taken) {
		t.Errorf("a taken port: %v", err)
	}
	w.consistent(t)
	if err := w.Publish(t.Context(), other.ID, nil); err != nil {
		t.Fatal(err)
	}
	// So is one that the host has: the kernel refuses, and the records are as before.
	refused := errors.New("the host has that port")
	w.fabric.check = func(e cnm.Endpoint) error {
		if len(e.Ports) > 0 {
			return refused
		}
		return nil
	}
	if err := w.Publish(t.Context(), s.ID, ports); !errors.Is(err, refused) {
		t.Errorf("a port of the host: %v", err)
	}
	w.fabric.check = nil
	ends, err := w.EndpointsOf(t.Context(), s.ID)
	if err != nil || len(ends) != 1 || len(ends[0].Ports) > 0 {
		t.Errorf("after a refusal: %v, %v", ends, err)
	}
	w.consistent(t)
	at(map[string]int{"back": 2})
}

// A sandbox has the ports that were asked for last. Those that stay keep their numbers, and a change that cannot be
// made changes nothing.
func TestPortsComeAndGo(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	fixed := cnm.PortMapping{Proto: "tcp", HostPort: 8080, Port: 80, Count: 1}
	open := cnm.PortMapping{Proto: "tcp", Port: 81, Count: 1, Dynamic: true}
	s, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Ports: []cnm.PortMapping{open, fixed},
		Attach: []cnm.AttachRequest{{Network: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	has := func() []cnm.PortMapping {
		t.Helper()
		w.consistent(t)
		ends, err := w.EndpointsOf(t.Context(), s.ID)
		if err != nil || len(ends) != 1 {
			t.Fatal(ends, err)
		}
		return ends[0].Ports
	}
	publish := func(ports ...cnm.PortMapping) error { return w.Publish(t.Context(), s.ID, ports) }
	picked := func(ports []cnm.PortMapping) (numbers []uint16) {
		for _, m := range ports {
			if m.Dynamic {
				numbers = append(numbers, m.HostPort)
			}
		}
		return numbers
	}
	first := picked(has())
	if err := publish(open, fixed, open); err != nil {
		t.Fatal(err)
	}
	if now := picked(has()); len(has()) != 3 || len(now) != 2 || !slices.Contains(now, first[0]) || now[0] == now[1] {
		t.Errorf("picked %v, then %v", first, now)
	}
	if _, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{Proto: "tcp", HostPort: 8081, Port: 80, Count: 1}}}); err != nil {
		t.Fatal(err)
	}
	before := has()
	var taken *cnm.PortTakenError
	more := cnm.PortMapping{Proto: "tcp", HostPort: 8081, Port: 82, Count: 1}
	if err := publish(more, open); !errors.As(err, &taken) || !strings.Contains(err.Error(), "on network web") {
		t.Errorf("a taken port: %v", err)
	}
	if now := has(); !reflect.DeepEqual(now, before) {
		t.Errorf("after a refusal %v, before %v", now, before)
	}
	// A process of the host has what is picked first: another is.
	next := picked(before)[1] + 1
	w.fabric.check = func(e cnm.Endpoint) error {
		for _, m := range e.Ports {
			if m.HostPort == next {
				return &cnm.PortTakenError{Proto: "tcp", Port: next}
			}
		}
		return nil
	}
	if err := publish(open, fixed, open, open); err != nil || slices.Contains(picked(has()), next) ||
		len(has()) != 4 {
		t.Errorf("a port of the host's: %v, %v", err, has())
	}
	if err := publish(fixed); err != nil || len(has()) != 1 {
		t.Errorf("one port: %v, %v", err, has())
	}
	if err := publish(); err != nil || len(has()) != 0 {
		t.Errorf("no port: %v, %v", err, has())
	}
}

// The same port on two networks that publish on different addresses is no conflict, and is shown where it is.
func TestPortsOfNetworksWithAddresses(t *testing.T) {
	w := newWorld(t, nil)
	for i, addr := range []string{"192.0.2.1", "192.0.2.2", ""} {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i + 1)}), 24)
		if _, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: fmt.Sprintf("n%d", i),
			Options: map[string]string{"binding": addr}, Pools: []cnm.PoolRequest{{Subnet: subnet}}}); err != nil {
			t.Fatal(err)
		}
	}
	ports := []cnm.PortMapping{{Proto: "tcp", HostPort: 8080, Port: 80, Count: 1}}
	for i, want := range []string{"192.0.2.1:8080->80/tcp", "192.0.2.2:8080->80/tcp"} {
		s, ends, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Ports: ports,
			Attach: []cnm.AttachRequest{{Network: fmt.Sprintf("n%d", i)}}})
		if err != nil || !slices.Equal(ends[0].Ports[0].Published(), []string{want}) {
			t.Fatalf("n%d: %v, %v, want %s", i, ends, err, want)
		}
		if err := w.Publish(t.Context(), s.ID, ports); err != nil { // they are where they belong
			t.Error(err)
		}
	}
	var taken *cnm.PortTakenError
	if _, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Ports: ports,
		Attach: []cnm.AttachRequest{{Network: "n2"}}}); !errors.As(err, &taken) {
		t.Errorf("on every address: %v", err)
	}
	w.consistent(t)
}
