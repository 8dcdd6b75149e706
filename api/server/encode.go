package server

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/volume"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// This file puts protocol messages together.

// timestamp leaves the zero time unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// addr is empty for the zero address.
func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// addrs leaves out what is not valid.
func addrs(in ...netip.Addr) []string {
	return list(slices.DeleteFunc(in, func(a netip.Addr) bool { return !a.IsValid() }), addr)
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func list[A, B any](in []A, f func(A) B) []B {
	var out []B
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

func encodeNetwork(n NetworkView) *apiv1.Network {
	out := &apiv1.Network{
		Id: n.ID, Name: n.Name, Driver: n.Driver, Scope: string(n.Scope), Internal: n.Internal,
		Ipv4: n.IPv4, Ipv6: n.IPv6, Pools: list(n.Pools, encodePool), Options: n.Options, Labels: n.Labels,
		Builtin: n.Builtin, Created: timestamp(n.Created), Endpoints: list(n.Endpoints, encodeEndpoint), Link: n.Link,
		ConfigOnly: n.ConfigOnly, ConfigFrom: n.ConfigFrom,
	}
	if n.IPAM != nil {
		out.IpamDriver, out.IpamOptions = n.IPAM.Driver, n.IPAM.Options
	}
	for _, p := range n.Config {
		pool := encodePool(cnm.Pool{Subnet: p.Subnet, Range: p.Range, Gateway: p.Gateway, Aux: p.Aux})
		if p.Bits != 0 {
			pool.Subnet = fmt.Sprintf("/%d", p.Bits)
		}
		out.Pools = append(out.Pools, pool)
	}
	if c := n.Cluster; c != nil {
		out.Cluster = &apiv1.ClusterNetwork{
			Subnets: list(c.Subnets, prefix), Vni: c.VNI, Port: uint32(c.Port), Leases: c.Leases, Gone: c.Gone,
			Left: c.Left,
		}
	}
	return out
}

func encodePool(p cnm.Pool) *apiv1.Pool {
	out := &apiv1.Pool{Subnet: prefix(p.Subnet), Gateway: addr(p.Gateway), Blocks: list(p.Blocks, prefix)}
	if p.Range != p.Subnet {
		out.IpRange = prefix(p.Range)
	}
	for name, a := range p.Aux {
		if out.AuxAddresses == nil {
			out.AuxAddresses = map[string]string{}
		}
		out.AuxAddresses[name] = addr(a)
	}
	return out
}

func encodeEndpoint(e EndpointView) *apiv1.Endpoint {
	return &apiv1.Endpoint{
		Id: e.ID, NetworkId: e.Network, Network: e.NetworkName, SandboxId: e.Sandbox,
		ContainerId: e.ContainerID, Container: e.ContainerName, Interface: e.Interface, HostLink: e.HostLink,
		MacAddress: e.MAC.String(), Addresses: list(e.Addrs, prefix), Gateways: list(e.Gateways, addr),
		Aliases: e.Aliases, Ports: list(e.Ports, encodePort), GatewayPriority: int32(e.GwPriority),
		Sysctls:           e.Sysctls,
		MissingAddresses:  list(e.Missing, addr),
		OutboundAddresses: list(e.Outbound, addr), RateIn: e.RateIn, RateOut: e.RateOut,
		Engine: e.Engine, Node: e.Node, Created: timestamp(e.Created),
		Path: encodePath(e.Path),
	}
}

func encodePath(p *EndpointPath) *apiv1.EndpointPath {
	if p == nil {
		return nil
	}
	return &apiv1.EndpointPath{Fast: p.Slow == "", Reason: p.Slow}
}

func encodePort(p cnm.PortMapping) *apiv1.PortMapping {
	return &apiv1.PortMapping{
		Proto: string(p.Proto), HostIp: addr(p.HostIP), HostPort: uint32(p.HostPort),
		ContainerPort: uint32(p.Port), Count: uint32(max(p.Count, 1)), From: list(p.From, prefix),
		Cluster: p.Cluster,
	}
}

func encodeSandbox(s SandboxView) *apiv1.Sandbox {
	if s.ID == "" {
		return nil
	}
	return &apiv1.Sandbox{
		Id: s.ID, NetnsPath: s.Path, ContainerId: s.Container,
		Endpoints: list(s.Endpoints, encodeEndpoint), Labels: s.Labels,
	}
}

func encodeContainer(c ContainerView) *apiv1.Container {
	spec := encodeSpec(c.Spec)
	for _, m := range spec.Mounts {
		if m.Volume {
			m.Path = c.Volumes[m.Source]
		}
	}
	return &apiv1.Container{
		Id: c.ID, Spec: spec, ImageId: c.ImageID,
		Created: timestamp(c.Created), Started: timestamp(c.Started), Finished: timestamp(c.Finished),
		Status: string(c.Status), Pid: int32(c.Pid), ExitCode: int32(c.ExitCode), OomKilled: c.OOM, Error: c.Error,
		Sandbox: encodeSandbox(c.Sandbox), LogPath: c.LogPath, RootPath: c.RootPath, Args: c.Args,
		RestartCount: int32(c.RestartCount), Health: encodeChecks(c.Health), ExecIds: c.ExecIDs,
	}
}

func encodeConnect(r cnm.AttachRequest) *apiv1.ConnectRequest {
	return &apiv1.ConnectRequest{
		Network: r.Network, Addresses: list(r.Addrs, addr), MacAddress: r.MAC.String(),
		Aliases: r.Aliases, GatewayPriority: int32(r.GwPriority), Ifname: r.IfName, Sysctls: r.Sysctls,
		OutboundAddresses: list(r.Outbound, addr), RateIn: r.RateIn, RateOut: r.RateOut,
	}
}

func encodeImage(i image.Image) *apiv1.Image {
	out := &apiv1.Image{
		Id: i.ID, References: i.References, Created: timestamp(i.Created), Size: i.Size,
		Os: i.OS, Architecture: i.Architecture, Layers: i.Layers, Env: i.Config.Env,
		Entrypoint: i.Config.Entrypoint, Command: i.Config.Cmd, WorkDir: i.Config.WorkingDir,
		User: i.Config.User, Labels: i.Config.Labels,
	}
	out.ExposedPorts = sortedKeys(i.Config.ExposedPorts)
	out.Digests, out.Variant, out.Author = i.Digests, i.Variant, i.Author
	if i.Manifest.Digest.Hex != "" {
		out.Manifest = &apiv1.Descriptor{MediaType: string(i.Manifest.MediaType), Digest: i.Manifest.Digest.String(),
			Size: i.Manifest.Size}
	}
	return out
}

func encodeStep(h image.History) *apiv1.HistoryStep {
	return &apiv1.HistoryStep{Created: timestamp(h.Created.Time), CreatedBy: h.CreatedBy, Comment: h.Comment,
		Author: h.Author, Size: h.Size, Layer: h.Layer, Image: h.Image, References: h.References}
}

func encodeVolume(v VolumeView) *apiv1.Volume {
	return &apiv1.Volume{Name: v.Name, Mountpoint: v.Path, Labels: v.Labels, Created: timestamp(v.Created),
		Containers: v.Containers, Driver: volume.LocalDriver, Options: v.Options}
}

func encodeExit(e engine.ExitStatus) *apiv1.ExitStatus {
	return &apiv1.ExitStatus{Code: int32(e.Code), OomKilled: e.OOM, Error: e.Error, Finished: timestamp(e.Finished)}
}
