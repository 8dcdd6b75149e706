// Package netavark answers the calls that netavark makes of its plugins (API 1.0.0; Podman 4.6 and later) with calls
// of netd. One program has it beside package cni.
package netavark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vethloom/vethloom/plugin/attach"
)

// Engine is what sandboxes of netavark are marked with.
const Engine = "netavark"

// apiVersion is that of the calls.
const apiVersion = "1.0.0"

// maxInput bounds what is read, in bytes.
const maxInput = 1 << 20

// callTime is how long netd may take.
const callTime = 70 * time.Second

// Options of a network that are the plugin's own; the others are those of the network's driver.
const (
	optNetwork = "net"    // ours; without: it is called as Podman's
	optDriver  = "driver" // of ours, where it is made: bridge by itself
	optSocket  = "socket" // netd's
)

// network is one of Podman's. What is not named here goes back as it came.
type network struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Subnets  []subnet          `json:"subnets"`
	IPv6     bool              `json:"ipv6_enabled"`
	Internal bool              `json:"internal"`
	Options  map[string]string `json:"options"`
}

type subnet struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Lease   any          `json:"lease_range,omitempty"`
}

// input is what setup and teardown get.
type input struct {
	Container string        `json:"container_id"`
	Name      string        `json:"container_name"`
	Ports     []portMapping `json:"port_mappings"`
	Network   network       `json:"network"`
	Options   struct {
		Aliases   []string     `json:"aliases"`
		Interface string       `json:"interface_name"`
		IPs       []netip.Addr `json:"static_ips"`
		MAC       string       `json:"static_mac"`
	} `json:"network_options"`
}

type portMapping struct {
	Container uint16 `json:"container_port"`
	HostIP    string `json:"host_ip"`
	Host      uint16 `json:"host_port"`
	Protocol  string `json:"protocol"` // also several: tcp,udp
	Range     uint16 `json:"range"`
}

// status is what setup answers.
type status struct {
	Search     []string             `json:"dns_search_domains"`
	Servers    []netip.Addr         `json:"dns_server_ips"`
	Interfaces map[string]linkState `json:"interfaces"`
}

type linkState struct {
	MAC     string    `json:"mac_address"`
	Subnets []address `json:"subnets"`
}

type address struct {
	Gateway netip.Addr   `json:"gateway,omitzero"`
	IPNet   netip.Prefix `json:"ipnet"`
}

// Is reports whether a program's arguments are a call of netavark's.
func Is(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch args[0] {
	case "create", "setup", "teardown", "info":
		return true
	}
	return false
}

// Main answers one call, and returns the program's exit code.
func Main(version string, args []string, in io.Reader, out io.Writer) int {
	answer, err := call(version, args, in)
	if err != nil {
		answer = map[string]string{"error": err.Error()}
	}
	if answer != nil {
		if e := json.NewEncoder(out).Encode(answer); e != nil {
			fmt.Fprintln(os.Stderr, "vethloom: write the answer:", e)
			return 1
		}
	}
	if err != nil {
		return 1
	}
	return 0
}

func call(version string, args []string, in io.Reader) (any, error) {
	if args[0] == "info" {
		return map[string]string{"version": version, "api_version": apiVersion}, nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("standard input has more than %d bytes", maxInput)
	}
	if args[0] == "create" {
		return create(text)
	}
	if len(args) != 2 {
		return nil, fmt.Errorf("%s: want the path of a network namespace", args[0])
	}
	var i input
	if err := json.Unmarshal(text, &i); err != nil {
		return nil, fmt.Errorf("standard input cannot be decoded: %w", err)
	}
	if args[0] == "teardown" {
		return nil, teardown(i)
	}
	return setup(i, args[1])
}

// socket is netd's.
func (n network) socket() string {
	if s := n.Options[optSocket]; s != "" {
		return s
	}
	return attach.Socket
}

// ours is the name of the network, and what to make where there is none: nothing for one that is named alone, which
// rather is mistyped.
func (n network) ours() (string, *attach.Create) {
	name := n.Options[optNetwork]
	if name != "" && n.Options[optDriver] == "" {
		return name, nil
	}
	if name == "" {
		name = n.Name
	}
	c := &attach.Create{Driver: n.Options[optDriver], IPv6: n.IPv6, Internal: n.Internal,
		Options: maps.Clone(n.Options)}
	for _, own := range []string{optNetwork, optDriver, optSocket} {
		delete(c.Options, own)
	}
	for _, s := range n.Subnets {
		c.Subnets = append(c.Subnets, s.Subnet)
	}
	return name, c
}

// create makes sure of the network, and answers with the subnets that it has.
func create(text []byte) (any, error) {
	var n network
	var all map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(text, &n), json.Unmarshal(text, &all)); err != nil {
		return nil, fmt.Errorf("standard input cannot be decoded: %w", err)
	}
	name, c := n.ours()
	a, err := do(n.socket(), attach.Request{Call: attach.Describe, Key: attach.Key{Engine: Engine}, Network: name,
		Create: c})
	if err != nil {
		return nil, err
	}
	for _, s := range n.Subnets {
		if !a.Network.Has(s.Subnet) {
			return nil, fmt.Errorf("subnet %s: network %s is there, and does not have it; leave the subnet out, or "+
				"name another network: -o net=NAME", s.Subnet, name)
		}
	}
	has := []subnet{}
	for _, s := range a.Network.Subnets {
		has = append(has, subnet{Subnet: s.Prefix, Gateway: s.Gateway})
	}
	if all["subnets"], err = json.Marshal(has); err != nil {
		return nil, fmt.Errorf("encode the subnets: %w", err)
	}
	return all, nil
}

func do(socket string, r attach.Request) (*attach.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	a, err := attach.Do(ctx, socket, r)
	switch {
	case err != nil:
		return nil, err
	case r.Call == attach.Attach && a.Result == nil, r.Call == attach.Describe && a.Network == nil:
		return nil, errors.New("netd's answer has no result")
	}
	return a, nil
}

// setup attaches a container.
func setup(i input, netns string) (any, error) {
	name, c := i.Network.ours()
	r := attach.Request{Call: attach.Attach, Key: i.key(), Name: i.Name, NetNS: netns, Network: name,
		Origin: i.Network.ID, Create: c, Addresses: i.Options.IPs, MAC: i.Options.MAC, Aliases: i.Options.Aliases}
	for _, p := range i.Ports {
		ports, err := p.ports()
		if err != nil {
			return nil, err
		}
		r.Ports = append(r.Ports, ports...)
	}
	a, err := do(i.Network.socket(), r)
	if err != nil {
		return nil, err
	}
	l := linkState{MAC: a.Result.MAC}
	for _, addr := range a.Result.Addresses {
		l.Subnets = append(l.Subnets, address{Gateway: addr.Gateway, IPNet: addr.Prefix})
	}
	return status{Search: []string{}, Servers: a.Result.NameServers,
		Interfaces: map[string]linkState{a.Result.Interface: l}}, nil
}

func (i input) key() attach.Key {
	return attach.Key{Engine: Engine, Container: i.Container, Interface: i.Options.Interface}
}

// ports are a mapping's, one for each protocol.
func (p portMapping) ports() ([]attach.Port, error) {
	var host netip.Addr
	if p.HostIP != "" {
		a, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			return nil, fmt.Errorf("host_ip %q: no IP address", p.HostIP)
		}
		if !a.IsUnspecified() {
			host = a
		}
	}
	var out []attach.Port
	for proto := range strings.SplitSeq(p.Protocol, ",") {
		out = append(out, attach.Port{Proto: proto, HostIP: host, HostPort: p.Host, Port: p.Container,
			Count: max(p.Range, 1)})
	}
	return out, nil
}

// teardown detaches. Where netd is away the detach is left for it.
func teardown(i input) error {
	socket := i.Network.socket()
	_, err := do(socket, attach.Request{Call: attach.Detach, Key: i.key(), Origin: i.Network.ID})
	if e, ok := errors.AsType[*attach.Error](err); ok && e.Kind == attach.Unavailable {
		if later := attach.Later(socket, i.key()); later != nil {
			return errors.Join(err, later)
		}
		fmt.Fprintf(os.Stderr, "%v; it detaches container %.12s when it is there again\n", err, i.Container)
		return nil
	}
	return err
}
