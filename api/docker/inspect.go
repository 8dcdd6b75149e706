package docker

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/plan"
)

// inspected is an inspection, with what older clients look for.
type inspected struct {
	container.InspectResponse
	Config          inspectedConfig
	NetworkSettings inspectedNetwork
}

type inspectedConfig struct {
	*container.Config
	MacAddress string `json:",omitempty"` // before 1.44
}

// inspectedNetwork has the addresses on the network bridge beside those of each network, as Docker had until 1.52.
type inspectedNetwork struct {
	container.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []network.EndpointSettings
	SecondaryIPv6Addresses []network.EndpointSettings
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

func (s containerService) inspect(w *answer, r *http.Request) error {
	c, err := s.find(r.Context(), r)
	if err != nil {
		return err
	}
	img, err := s.cfg.Images.InspectImage(r.Context(), c.ImageID)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	out, err := s.encode(r.Context(), c, img)
	if err != nil {
		return err
	}
	if flag(r, "size") {
		written, err := s.cfg.Containers.WrittenBy(r.Context(), c.ID)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = new(written), new(written+img.Size)
	}
	return w.json(http.StatusOK, out)
}

// encode is the inspection of a container. An image that is gone is the zero one.
func (s containerService) encode(ctx context.Context, c server.ContainerView, img image.Image) (inspected, error) {
	exposed := exposedPorts(c.Spec, img)
	nets, err := s.networksOf(ctx, c, &networkIDs{networks: s.cfg.Networks})
	if err != nil {
		return inspected{}, err
	}
	dir := filepath.Dir(c.LogPath)
	out := inspected{InspectResponse: container.InspectResponse{
		ID: c.ID, Created: encodeTime(c.Created), State: encodeState(c), Image: c.ImageID,
		ResolvConfPath: filepath.Join(dir, "resolv.conf"), HostnamePath: filepath.Join(dir, "hostname"),
		HostsPath: filepath.Join(dir, "hosts"), LogPath: c.LogPath, Name: "/" + c.Spec.Name,
		RestartCount: c.RestartCount, Driver: storageDriver, Platform: "linux", AppArmorProfile: c.Spec.AppArmor,
		ExecIDs: s.execs.of(c.ID), HostConfig: encodeHostConfig(c.Spec), Mounts: mountPoints(c), Args: []string{},
		GraphDriver: &storage.DriverData{Name: storageDriver, Data: map[string]string{"UpperDir": c.Layer.Upper,
			"WorkDir": c.Layer.Work}},
	}}
	if len(c.Args) > 0 {
		out.Path, out.Args = c.Args[0], append(out.Args, c.Args[1:]...)
	}
	if lives(c.Status) { // in the mount namespace of its supervisor
		out.GraphDriver.Data["MergedDir"] = c.Layer.Root
	}
	out.Config = inspectedConfig{Config: encodeConfig(c, exposed, img)}
	if len(c.Spec.Networks) > 0 && c.Spec.Networks[0].MAC != (plan.MAC{}) {
		out.Config.MacAddress = c.Spec.Networks[0].MAC.String()
	}
	out.NetworkSettings = encodeNetworkSettings(c, nets, published(c, exposed))
	return out, nil
}

func encodeTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func encodeState(c server.ContainerView) *container.State {
	out := &container.State{
		Status: container.ContainerState(c.Status), Running: lives(c.Status) || c.Status == engine.Restarting,
		Paused: c.Status == engine.Paused, Restarting: c.Status == engine.Restarting, OOMKilled: c.OOM, Pid: c.Pid,
		ExitCode: c.ExitCode, Error: c.Error, StartedAt: encodeTime(c.Started), FinishedAt: encodeTime(c.Finished),
	}
	if c.Phase == cnm.Deleting {
		out.Status = container.StateRemoving
	}
	if h := c.Health; h != nil {
		out.Health = &container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.Failing,
			Log: []*container.HealthcheckResult{}}
		for _, p := range h.Log {
			out.Health.Log = append(out.Health.Log, &container.HealthcheckResult{Start: p.Start, End: p.End,
				ExitCode: p.ExitCode, Output: p.Output})
		}
	}
	return out
}

func encodeConfig(c server.ContainerView, exposed []plan.NamePort, img image.Image) *container.Config {
	s := c.Spec
	out := &container.Config{
		Hostname: s.Hostname, Domainname: s.Domainname, User: s.User, AttachStdin: s.Client.AttachStdin,
		AttachStdout: s.Client.AttachStdout, AttachStderr: s.Client.AttachStderr, Tty: s.TTY, OpenStdin: s.OpenStdin,
		StdinOnce: s.StdinOnce, Env: append([]string{}, s.Env...), Cmd: s.Command,
		Healthcheck: encodeHealthcheck(s.Health), Image: s.Image, WorkingDir: s.WorkDir, Entrypoint: s.Entrypoint,
		Labels: s.Labels, StopSignal: s.StopSignal, StopTimeout: encodeStopTimeout(s.StopTimeout),
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	for _, e := range exposed {
		if p, ok := network.PortFrom(e.Port, network.IPProtocol(e.Proto)); ok {
			if out.ExposedPorts == nil {
				out.ExposedPorts = network.PortSet{}
			}
			out.ExposedPorts[p] = struct{}{}
		}
	}
	volumes := map[string]struct{}{}
	for target := range img.Config.Volumes {
		volumes[target] = struct{}{}
	}
	for _, m := range s.Mounts {
		if m.Volume && engine.Anonymous(m.Source) {
			volumes[m.Target] = struct{}{}
		}
	}
	if len(volumes) > 0 {
		out.Volumes = volumes
	}
	return out
}

// exposedPorts are those that a container serves: its own, those of its image, and those that it publishes.
func exposedPorts(s engine.Spec, img image.Image) []plan.NamePort {
	out := slices.Clone(s.Expose)
	for _, text := range sortedKeys(img.Config.ExposedPorts) {
		if first, count, proto, err := span(text); err == nil && first != 0 {
			for i := range count {
				out = append(out, plan.NamePort{Proto: proto, Port: uint16(first + i)})
			}
		}
	}
	for _, m := range s.Ports {
		for i := range max(m.Count, 1) {
			out = append(out, plan.NamePort{Proto: m.Proto, Port: m.Port + i})
		}
	}
	slices.SortFunc(out, func(a, b plan.NamePort) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return slices.Compact(out)
}

// networkIDs finds the IDs of networks that containers which do not run are to be on.
type networkIDs struct {
	networks server.Networks
	byName   map[string]string
}

func (n *networkIDs) of(ctx context.Context, name string) (string, error) {
	if n.byName == nil {
		all, err := n.networks.ListNetworks(ctx)
		if err != nil {
			return "", err
		}
		n.byName = map[string]string{}
		for _, one := range all {
			n.byName[one.Name] = one.ID
		}
	}
	return n.byName[name], nil
}

// networksOf are the networks of a container, with its wishes and, while it is on them, its addresses.
func (s containerService) networksOf(ctx context.Context, c server.ContainerView, ids *networkIDs) (
	map[string]*network.EndpointSettings, error) {
	out := map[string]*network.EndpointSettings{}
	if shared(c.Spec) {
		return out, nil
	}
	if lives(c.Status) {
		for _, e := range c.Sandbox.Endpoints {
			out[e.NetworkName] = encodeEndpoint(e)
		}
	}
	for _, a := range c.Spec.Networks {
		e := out[a.Network]
		if e == nil {
			id, err := ids.of(ctx, a.Network)
			if err != nil {
				return nil, err
			}
			e = &network.EndpointSettings{NetworkID: id, Aliases: a.Aliases, GwPriority: a.GwPriority,
				MacAddress: hardware(a.MAC)}
			out[a.Network] = e
		}
		e.IPAMConfig = ipamConfig(a)
		if a.Network == c.Spec.Networks[0].Network {
			e.Links = c.Spec.Links
		}
	}
	return out, nil
}

// ipamConfig has the addresses that were asked for.
func ipamConfig(a cnm.AttachRequest) *network.EndpointIPAMConfig {
	if len(a.Addrs) == 0 {
		return nil
	}
	out := &network.EndpointIPAMConfig{}
	for _, one := range a.Addrs {
		if one.Is4() {
			out.IPv4Address = one
		} else {
			out.IPv6Address = one
		}
	}
	return out
}

func encodeNetworkSettings(c server.ContainerView, nets map[string]*network.EndpointSettings,
	ports network.PortMap) inspectedNetwork {
	out := inspectedNetwork{NetworkSettings: container.NetworkSettings{SandboxID: c.Sandbox.ID,
		SandboxKey: c.Sandbox.Path, Ports: ports, Networks: nets}}
	b := nets[cnm.NetworkBridge]
	if b == nil {
		return out
	}
	text := func(a interface {
		IsValid() bool
		String() string
	}) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	out.EndpointID, out.MacAddress = b.EndpointID, b.MacAddress.String()
	out.Gateway, out.IPAddress, out.IPPrefixLen = text(b.Gateway), text(b.IPAddress), b.IPPrefixLen
	out.IPv6Gateway, out.GlobalIPv6Address = text(b.IPv6Gateway), text(b.GlobalIPv6Address)
	out.GlobalIPv6PrefixLen = b.GlobalIPv6PrefixLen
	return out
}
