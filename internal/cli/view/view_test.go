package view_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// fields are those of a view as inspect writes it.
func fields(t *testing.T, v any) map[string]any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// at finds a field by its path, "State.Running"; numbers index lists.
func at(t *testing.T, v any, path string) string {
	t.Helper()
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			i := int(part[0] - '0')
			if i >= len(x) {
				t.Fatalf("%s: %d entries", path, len(x))
			}
			v = x[i]
		default:
			t.Fatalf("%s: %v has no %s", path, v, part)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wants(t *testing.T, v any, want map[string]string) {
	t.Helper()
	f := fields(t, v)
	for path, text := range want {
		if got := at(t, f, path); got != text {
			t.Errorf("%s is %s, want %s", path, got, text)
		}
	}
}

var (
	epoch   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	created = timestamppb.New(epoch)
)

func TestNetwork(t *testing.T) {
	wants(t, view.Network(&apiv1.Network{
		Name: "web", Id: "aa", Created: created, Scope: "cluster", Driver: "vxlan", Ipv4: true, Link: "vlb-aa",
		Labels: map[string]string{"a": "b"}, Cluster: &apiv1.ClusterNetwork{Subnets: []string{"10.1.0.0/16"}, Vni: 7,
			Port: 8472, Leases: "/vethloom/leases/aa"},
		Pools: []*apiv1.Pool{{Subnet: "10.1.5.0/24", Gateway: "10.1.5.1", IpRange: "10.1.5.128/25",
			AuxAddresses: map[string]string{"router": "10.1.5.9"}}},
		Endpoints: []*apiv1.Endpoint{
			{Id: "e1", ContainerId: "c1", Container: "box", MacAddress: "02:00:00:00:00:01",
				Addresses: []string{"10.1.5.2/24", "fd00::2/64"}},
			{Id: "e2", SandboxId: "s2"},
		},
	}), map[string]string{
		"Name": `"web"`, "Id": `"aa"`, "Created": `"2026-01-02T03:04:05Z"`, "EnableIPv4": "true", "EnableIPv6": "false",
		"IPAM.Config.0.Subnet": `"10.1.5.0/24"`, "IPAM.Config.0.IPRange": `"10.1.5.128/25"`,
		"IPAM.Config.0.AuxiliaryAddresses.router": `"10.1.5.9"`, "Labels.a": `"b"`, "Options": "{}",
		"Containers.c1.Name": `"box"`, "Containers.c1.IPv4Address": `"10.1.5.2/24"`,
		"Containers.c1.IPv6Address": `"fd00::2/64"`, "Containers.s2.EndpointID": `"e2"`,
		"Cluster.Lease": `["10.1.5.0/24"]`, "Cluster.VNI": "7", "Cluster.LeasePrefix": `"/vethloom/leases/aa"`,
		"Cluster.Gone": "false",
	})
	// Of one node alone, with nothing: lists and maps are empty, not null, so that templates can range.
	local := view.Network(&apiv1.Network{})
	wants(t, local, map[string]string{"IPAM.Config": "[]", "Containers": "{}", "Options": "{}", "Labels": "{}",
		"Created": `"0001-01-01T00:00:00Z"`})
	if _, ok := fields(t, local)["Cluster"]; ok || local.Id() != local.ID {
		t.Errorf("a network of one node: %+v", local)
	}
	wants(t, view.Network(&apiv1.Network{Cluster: &apiv1.ClusterNetwork{Gone: true},
		Pools: []*apiv1.Pool{{Subnet: "10.1.0.0/16", Blocks: []string{"10.1.0.0/26"}}}}),
		map[string]string{"Cluster.Blocks": `["10.1.0.0/26"]`, "Cluster.Gone": "true", "Cluster.Subnets": "[]"})
}

func container() *apiv1.Container {
	return &apiv1.Container{
		Id: "cc", Created: created, ImageId: "sha256:1", Status: "paused", Pid: 7, Args: []string{"sh", "-c", "true"},
		Started: created, LogPath: "/log", RootPath: "/rootfs",
		Spec: &apiv1.ContainerSpec{
			Name: "web", Image: "busybox", Hostname: "inside", User: "1000", Env: []string{"A=b"}, WorkDir: "/w",
			Command: []string{"-c", "true"}, Entrypoint: []string{"sh"}, StopSignal: "SIGINT",
			StopTimeout: durationpb.New(3 * time.Second), Remove: true,
			Resources: &apiv1.Resources{PidsLimit: 5, Memory: 1 << 20, NanoCpus: 5e8},
			Networks:  []*apiv1.ConnectRequest{{Network: "front"}, {Network: "back"}},
			Ports:     []*apiv1.PortMapping{{Proto: "tcp", HostPort: 8080, ContainerPort: 80, Count: 2}},
			Mounts: []*apiv1.Mount{{Source: "data", Target: "/d", Volume: true},
				{Source: "/src", Target: "/s", ReadOnly: true}},
			Sysctls: map[string]string{"net.core.somaxconn": "1024"},
		},
		Sandbox: &apiv1.Sandbox{Id: "ss", NetnsPath: "/run/netns/ss", Endpoints: []*apiv1.Endpoint{{
			Id: "e1", Network: "front", NetworkId: "n1", MacAddress: "02:00:00:00:00:01", Interface: "eth0",
			HostLink: "vle-1", GatewayPriority: 3, Aliases: []string{"www"},
			Addresses: []string{"10.1.0.2/16", "fd00::2/64", "not an address"},
			Gateways:  []string{"10.1.0.1", "fd00::1"},
			Ports:     []*apiv1.PortMapping{{Proto: "tcp", HostIp: "127.0.0.1", HostPort: 8080, ContainerPort: 80}},
		}}},
	}
}

func TestContainer(t *testing.T) {
	wants(t, view.Container(container()), map[string]string{
		"Id": `"cc"`, "Name": `"/web"`, "Path": `"sh"`, "Args": `["-c","true"]`, "Image": `"sha256:1"`,
		"State.Status": `"paused"`, "State.Running": "true", "State.Paused": "true", "State.Pid": "7",
		"State.StartedAt": `"2026-01-02T03:04:05Z"`, "State.FinishedAt": `"0001-01-01T00:00:00Z"`,
		"Config.Hostname": `"inside"`, "Config.Env": `["A=b"]`, "Config.StopTimeout": "3", "Config.Labels": "{}",
		"HostConfig.NetworkMode": `"front"`, "HostConfig.PidsLimit": "5", "HostConfig.NanoCpus": "500000000",
		"HostConfig.AutoRemove": "true", "HostConfig.Binds": `["data:/d","/src:/s:ro"]`,
		"HostConfig.Sysctls": `{"net.core.somaxconn":"1024"}`,
		"HostConfig.PortBindings": `{"80/tcp":[` +
			`{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],` +
			`"81/tcp":[{"HostIp":"0.0.0.0","HostPort":"8081"},{"HostIp":"::","HostPort":"8081"}]}`,
		"Mounts.0.Type":                                      `"volume"`,
		"Mounts.0.Name":                                      `"data"`,
		"Mounts.1.RW":                                        "false",
		"NetworkSettings.SandboxKey":                         `"/run/netns/ss"`,
		"NetworkSettings.Ports":                              `{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}`,
		"NetworkSettings.Networks.front.IPAddress":           `"10.1.0.2"`,
		"NetworkSettings.Networks.front.IPPrefixLen":         "16",
		"NetworkSettings.Networks.front.GlobalIPv6Address":   `"fd00::2"`,
		"NetworkSettings.Networks.front.GlobalIPv6PrefixLen": "64",
		"NetworkSettings.Networks.front.Gateway":             `"10.1.0.1"`,
		"NetworkSettings.Networks.front.IPv6Gateway":         `"fd00::1"`,
		"NetworkSettings.Networks.front.GwPriority":          "3",
		"NetworkSettings.Networks.front.InterfaceName":       `"eth0"`,
	})
	empty := view.Container(&apiv1.Container{})
	wants(t, empty, map[string]string{"Args": "[]", "Mounts": "[]", "State.Running": "false",
		"HostConfig.NetworkMode": `"bridge"`, "NetworkSettings.Ports": "{}", "NetworkSettings.Networks": "{}"})
	if _, ok := fields(t, empty)["Config"].(map[string]any)["StopTimeout"]; ok || empty.Id() != "" {
		t.Error("a container without a wish has a time to stop")
	}
}

func TestImageAndVolume(t *testing.T) {
	i := view.Image(&apiv1.Image{Id: "sha256:1", References: []string{"busybox:latest"}, Created: created, Size: 7,
		Os:           "linux",
		Architecture: "amd64", Layers: []string{"sha256:2"}, Command: []string{"sh"}, ExposedPorts: []string{"80/tcp"},
		Labels: map[string]string{"x": "y"}, User: "u", WorkDir: "/w", Env: []string{"P=q"}})
	wants(t, i, map[string]string{"Id": `"sha256:1"`, "RepoTags": `["busybox:latest"]`, "Size": "7",
		"RootFS.Type":   `"layers"`,
		"RootFS.Layers": `["sha256:2"]`, "Config.Cmd": `["sh"]`, "Config.ExposedPorts": `{"80/tcp":{}}`,
		"Config.Labels.x": `"y"`, "Config.WorkingDir": `"/w"`})
	// What a field means that is unknown here is for others to say: it is shown as it is.
	wants(t, view.Image(&apiv1.Image{Command: []string{"sh"}, Config: []byte(`{"author":7,"comment":"c","config":{` +
		`"Cmd":["x"],"Healthcheck":{"Test":["NONE"],"Interval":30000000001},"OnBuild":["RUN x"],"New":{"a":[1]}}}`)}),
		map[string]string{"Config.Cmd": `["sh"]`, "Config.Healthcheck.Interval": "30000000001", "Comment": `"c"`,
			"Config.Healthcheck.Test": `["NONE"]`, "Config.OnBuild": `["RUN x"]`, "Config.New": `{"a":[1]}`})
	wants(t, view.Image(&apiv1.Image{Config: []byte(`{"config":`)}), map[string]string{"Config.Labels": "{}"})
	// What images of registries have, by Docker's names.
	wants(t, view.Image(&apiv1.Image{Author: "me", Variant: "v7", Digests: []string{"busybox@sha256:3"},
		Manifest: &apiv1.Descriptor{MediaType: "m", Digest: "sha256:3", Size: 9},
		Config:   []byte(`{"history":[{"comment":"first"},{"comment":"last"}]}`)}),
		map[string]string{"Author": `"me"`, "Variant": `"v7"`, "RepoDigests": `["busybox@sha256:3"]`,
			"Comment":              `"last"`,
			"Descriptor.mediaType": `"m"`, "Descriptor.digest": `"sha256:3"`, "Descriptor.size": "9",
			"GraphDriver.Name": `"overlayfs"`, "Parent": `""`, "Metadata": "{}"})
	wants(t, view.Image(&apiv1.Image{}), map[string]string{"RepoTags": "[]", "Config.Labels": "{}"})
	if i.Id() != "sha256:1" {
		t.Errorf("ID %s", i.Id())
	}
	wants(t, view.Volume(&apiv1.Volume{Name: "data", Mountpoint: "/m", Created: created, Containers: []string{"web"}}),
		map[string]string{"Name": `"data"`, "Driver": `"local"`, "Mountpoint": `"/m"`, "Labels": "{}",
			"Containers": `["web"]`})
	wants(t, view.Volume(&apiv1.Volume{}), map[string]string{"Containers": "[]"})
}

func TestNode(t *testing.T) {
	wants(t, view.NodeOf(&apiv1.Node{
		Id: "n", Name: "n1", Addresses: []string{"192.0.2.1"}, Alive: true, LastSeen: created, Endpoints: 3,
		Subnets: []*apiv1.NodeSubnet{{Network: "web", Prefixes: []string{"10.1.5.0/24"}},
			{Network: "web", Prefixes: []string{"fd00::/64"}}},
		Health: []*apiv1.PeerHealth{
			{Path: "underlay", Target: "192.0.2.1", Reachable: true, Rtt: durationpb.New(420 * time.Microsecond),
				Mtu: 1500, PathMtu: 1500, Small: true, Large: true, Checked: created},
			{Path: "vxlan web", Loss: 0.125, Cause: "lost", Remedy: "look"},
		},
	}), map[string]string{"Status": `"ready"`, "Subnets": `{"web":["10.1.5.0/24","fd00::/64"]}`, "Blocks": "{}",
		"Health.0.RTT": `"0.42 ms"`, "Health.0.RTTMicros": "420", "Health.1.LossPercent": "13", "Health.1.RTT": `""`,
		"Health.1.Cause": `"lost"`, "Drivers": "[]"})
	wants(t, view.NodeOf(&apiv1.Node{}), map[string]string{"Status": `"away"`, "Health": "[]", "Addresses": "[]"})
	if got := view.ClusterStatusOf(nil); got != nil {
		t.Errorf("the cluster of a node that is in none: %+v", got)
	}
	wants(t, view.ClusterStatusOf(&apiv1.ClusterStatus{Store: "etcd", Connected: true, Since: created, NodeId: "n",
		Nodes: 3,
		Alive: 2, Problems: []string{"p"}}), map[string]string{"Store": `"etcd"`, "Connected": "true", "Nodes": "3",
		"Alive":    "2",
		"Problems": `["p"]`, "Expires": `"0001-01-01T00:00:00Z"`})
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "Less than a second", time.Second: "1 second", 2 * time.Second: "2 seconds", 59 * time.Second: "59 seconds",
		time.Minute: "About a minute", 2 * time.Minute: "2 minutes", time.Hour: "About an hour",
		2 * time.Hour:  "2 hours",
		47 * time.Hour: "47 hours", 48 * time.Hour: "2 days", 14 * 24 * time.Hour: "2 weeks",
		61 * 24 * time.Hour: "2 months", 800 * 24 * time.Hour: "2 years",
	} {
		if got := view.Duration(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestTimesSizesAndSentences(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0.00 ms", 420 * time.Microsecond: "0.42 ms",
		12340 * time.Microsecond: "12.3 ms", 1500 * time.Millisecond: "1500 ms"} {
		if got := view.RTT(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 4_260_000: "4.26MB", 1e12: "1TB",
		math.MaxInt64: "9.22EB"} {
		if got := view.Size(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
	for in, want := range map[string]string{"": "", "About": "about", "a": "a"} {
		if got := view.LowerFirst(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	if got := view.LabelList(map[string]string{"b": "2", "a": "1"}); got != "a=1,b=2" {
		t.Errorf("labels %q", got)
	}
	if got := (view.Binding{HostIP: "::", HostPort: "80"}).String(); got != "[::]:80" {
		t.Errorf("a binding is %q", got)
	}
}
