package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Engine is what is read of a Docker Engine, and done there.
type Engine interface {
	// Networks are all that it has.
	Networks(ctx context.Context) ([]EngineNetwork, error)
	// Endpoints are those on a network.
	Endpoints(ctx context.Context, network string) ([]EngineEndpoint, error)
	// Aliases are the further names of a container on a network.
	Aliases(ctx context.Context, container, network string) ([]string, error)
	CreateNetwork(ctx context.Context, n EngineNetwork) error
	RemoveNetwork(ctx context.Context, id string) error
	// Changes sends when there may be something new to read, until it cannot tell any more or the context ends.
	Changes(ctx context.Context, changed func()) error
}

// EngineNetwork is a network of Docker's.
type EngineNetwork struct {
	ID, Name, Driver string
	Net              string // the network of ours that it is, -o net
	Made             string // the ID of that, where netd has made it
	Subnets          []netip.Prefix
	Internal         bool
}

// EngineEndpoint is a container's place on a network of Docker's.
type EngineEndpoint struct {
	ID, Container, Name string
}

const (
	driverName = "vethloom"             // the name of the plugin's socket in dockerd's folder
	madeLabel  = "org.vethloom.network" // of networks that netd has made in Docker
	engineTime = 10 * time.Second       // bounds a call of the engine
)

// engine speaks to a dockerd.
type engine struct{ api *client.Client }

// Dial makes a client of the dockerd at an address such as unix:///run/docker.sock. It connects with the first call.
func Dial(address string) (Engine, error) {
	c, err := client.New(client.WithHost(address), client.WithUserAgent("vethloom"))
	if err != nil {
		return nil, fmt.Errorf("--docker %s: %w", address, err)
	}
	return engine{c}, nil
}

// within bounds a call.
func within(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (e engine) Networks(ctx context.Context) (out []EngineNetwork, err error) {
	return out, within(ctx, "list Docker's networks", func(ctx context.Context) error {
		all, err := e.api.NetworkList(ctx, client.NetworkListOptions{})
		for _, n := range all.Items {
			r := EngineNetwork{ID: n.ID, Name: n.Name, Driver: n.Driver, Net: n.Options["net"],
				Made: n.Labels[madeLabel], Internal: n.Internal}
			for _, c := range n.IPAM.Config {
				r.Subnets = append(r.Subnets, c.Subnet)
			}
			out = append(out, r)
		}
		return err
	})
}

func (e engine) Endpoints(ctx context.Context, id string) (out []EngineEndpoint, err error) {
	return out, within(ctx, "look at a network of Docker's", func(ctx context.Context) error {
		n, err := e.api.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
		for container, r := range n.Network.Containers {
			out = append(out, EngineEndpoint{ID: r.EndpointID, Container: container, Name: r.Name})
		}
		return err
	})
}

func (e engine) Aliases(ctx context.Context, container, id string) (out []string, err error) {
	return out, within(ctx, "look at a container of Docker's", func(ctx context.Context) error {
		c, err := e.api.ContainerInspect(ctx, container, client.ContainerInspectOptions{})
		if err != nil || c.Container.NetworkSettings == nil {
			return err
		}
		for _, s := range c.Container.NetworkSettings.Networks {
			if s != nil && s.NetworkID == id {
				out = append(slices.Clone(s.Aliases), s.DNSNames...)
			}
		}
		return nil
	})
}

func (e engine) CreateNetwork(ctx context.Context, n EngineNetwork) error {
	return within(ctx, "make a network in Docker", func(ctx context.Context) error {
		ipam := &network.IPAM{Driver: n.Driver, Options: map[string]string{"net": n.Net}}
		v6 := false
		for _, s := range n.Subnets {
			ipam.Config = append(ipam.Config, network.IPAMConfig{Subnet: s})
			v6 = v6 || s.Addr().Is6()
		}
		_, err := e.api.NetworkCreate(ctx, n.Name, client.NetworkCreateOptions{Driver: n.Driver, EnableIPv6: &v6,
			IPAM: ipam, Internal: n.Internal, Options: map[string]string{"net": n.Net},
			Labels: map[string]string{madeLabel: n.Made}})
		return err
	})
}

func (e engine) RemoveNetwork(ctx context.Context, id string) error {
	return within(ctx, "remove a network of Docker's", func(ctx context.Context) error {
		_, err := e.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
		return err
	})
}

func (e engine) Changes(ctx context.Context, changed func()) error {
	events := e.api.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).
		Add("type", "network", "container").Add("event", "create", "destroy", "connect", "disconnect", "rename")})
	for {
		select {
		case <-events.Messages:
			changed()
		case err := <-events.Err:
			return err
		}
	}
}
