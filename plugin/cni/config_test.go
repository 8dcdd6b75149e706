package cni

import (
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/vethloom/vethloom/plugin/attach"
)

// full has all that a configuration can say.
const full = `{"cniVersion": "1.1.0", "name": "web", "type": "vethloom-cni", "network": "front", "driver": "overlay",
	"subnets": ["10.7.0.0/24"], "options": {"icc": "false"}, "gatewayPriority": 7, "socket": "/s",
	"runtimeConfig": {"ips": ["10.7.0.5/24", "fd07::5"], "mac": "02:00:00:00:00:05",
	"aliases": {"web": ["a", "b"], "other": ["c"]}, "bandwidth": {"ingressRate": 1000, "egressRate": 2000},
	"ipRanges": [[{"subnet": "10.8.0.0/24"}]], "dns": {"servers": ["10.0.0.53"], "searches": ["corp"]},
	"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "TCP", "hostIP": "0.0.0.0"},
	{"hostPort": 0, "containerPort": 1, "protocol": "udp"}]}, "args": {"cni": {"ips": ["10.7.0.5"]}}}`

func TestRequestOfAConfiguration(t *testing.T) {
	c, err := readConfig([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.request(attach.Attach, &skel.CmdArgs{ContainerID: "x", IfName: "eth0", Netns: "/n",
		Args: "IgnoreUnknown=1;K8S_POD_NAME=shop;MAC=02:00:00:00:00:06;IP=fd07::5"})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case r.Network != "front" || r.Origin != "web" || r.Name != "shop" || r.GwPriority != 7 || r.NetNS != "/n":
		t.Errorf("request: %+v", r)
	case r.MAC != "02:00:00:00:00:05" || len(r.Addresses) != 2 || r.RateIn != 1000 || r.RateOut != 2000:
		t.Errorf("link: %+v", r)
	case strings.Join(r.Aliases, " ") != "a b" || len(r.Ports) != 1 || r.Ports[0].Proto != "tcp" ||
		r.Ports[0].HostIP.IsValid():
		t.Errorf("names and ports: %+v", r)
	case r.Create == nil || r.Create.Driver != "overlay" || len(r.Create.Subnets) != 2:
		t.Errorf("network: %+v", r.Create)
	case c.Socket != "/s" || c.RuntimeConfig.DNS.Nameservers[0] != "10.0.0.53":
		t.Errorf("configuration: %+v", c)
	}
}

// An engine in a mount namespace of its own has its paths below a root that netd sees.
func TestPathsOfNamespacesBelowARoot(t *testing.T) {
	for text, want := range map[string]string{
		`{"name": "a", "type": "vethloom-cni"}`:                               "/n/1",
		`{"name": "a", "type": "vethloom-cni", "netnsRoot": "/proc/7/root"}`:  "/proc/7/root/n/1",
		`{"name": "a", "type": "vethloom-cni", "netnsRoot": "/proc/7/root/"}`: "/proc/7/root/n/1",
	} {
		c, err := readConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.request(attach.Attach, &skel.CmdArgs{ContainerID: "x", IfName: "eth0", Netns: "/n/1"})
		if err != nil || r.NetNS != want {
			t.Errorf("%s: %q, %v, want %s", text, r.NetNS, err, want)
		}
	}
}

// Another plugin's keys are not ours, even where they are called the same.
func TestConfigurationOfAnotherPlugin(t *testing.T) {
	c, err := readConfig([]byte(`{"cniVersion": "1.0.0", "name": "own", "type": "macvlan", "network": 5, "driver": [],
		"gatewayPriority": "x", "ipam": {"type": "vethloom-cni", "network": "web", "socket": "/s",
		"routes": [{"dst": "10.0.0.0/8"}], "dns": {"nameservers": ["10.0.0.53"]}},
		"runtimeConfig": {"ips": ["10.7.0.5"], "mac": "02:00:00:00:00:05", "portMappings": [{"hostPort": 99999}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.request(attach.Reserve, &skel.CmdArgs{ContainerID: "x", IfName: "eth0", Netns: "/n"})
	switch {
	case err != nil || r.Network != "web" || r.Origin != "own" || r.Create != nil || len(r.Addresses) != 1:
		t.Errorf("request: %+v, %v", r, err)
	case r.MAC != "" || r.Ports != nil || r.GwPriority != 0:
		t.Errorf("a link is asked for: %+v", r)
	case c.Socket != "/s" || len(c.alone.Routes) != 1 || c.alone.DNS.Nameservers[0] != "10.0.0.53":
		t.Errorf("configuration: %+v", c.alone)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	type refusal struct {
		text string // behind the name
		code uint
		says string
	}
	const bad = types.ErrInvalidNetworkConfig
	port := func(p string) string { return `, "runtimeConfig": {"portMappings": [` + p + `]}}` }
	for _, want := range []refusal{
		{``, types.ErrDecodingFailure, "decoded"},
		{`, "subnets": ["10.7.0.0"]}`, types.ErrDecodingFailure, "decoded"},
		{`, "ipam": {"type": "dhcp"}}`, bad, `"dhcp"`},
		{`, "netnsRoot": "here"}`, bad, `"here": no absolute path`},
		{`, "type": "vethloom-cni", "ipam": {"type": "vethloom-cni"}}`, bad, "leave ipam out"},
		{`, "type": "bridge", "ipam": {"type": "vethloom-cni", "routes": 5}}`, types.ErrDecodingFailure, "decoded"},
		{`, "runtimeConfig": {"dns": 5}}`, bad, "dns"},
		{`, "runtimeConfig": {"ips": ["x"]}}`, bad, `"x"`},
		{`, "cniVersion": "1.0.0", "prevResult": {"ips": "no"}}`, types.ErrDecodingFailure, "prevResult"},
		{port(`{"hostPort": 1, "containerPort": -1}`), bad, `"1:-1"`},
		{port(`{"hostPort": 1, "containerPort": 1, "hostIP": "lo"}`), bad, `"lo"`},
	} {
		text := `{"name": "web"` + want.text
		c, err := readConfig([]byte(text))
		if err == nil {
			_, err = c.request(attach.Attach, &skel.CmdArgs{ContainerID: "x", IfName: "eth0"})
		}
		e, ok := errors.AsType[*types.Error](err)
		if !ok || e.Code != want.code || !strings.Contains(e.Msg, want.says) {
			t.Errorf("%s: %v, want code %d with %s", text, err, want.code, want.says)
		}
	}
}

// Codes that engines go by.
func TestCodesOfErrors(t *testing.T) {
	for _, k := range []struct {
		call attach.Call
		kind attach.Kind
		code uint
	}{
		{attach.Attach, attach.Unavailable, 11}, {attach.Attach, attach.Exhausted, 11},
		{attach.Attach, attach.NoNetNS, 8}, {attach.Attach, attach.Invalid, 7}, {attach.Attach, attach.NotFound, 7},
		{attach.Attach, attach.Conflict, 100}, {attach.Attach, attach.Failed, 101}, {attach.Check, attach.NotFound, 3},
		{attach.Ready, attach.Exhausted, 51}, {attach.Ready, attach.Unavailable, 50},
		{attach.Ready, attach.NotFound, 50}, {attach.Collect, attach.Failed, 101},
	} {
		err := coded(k.call, &attach.Error{Kind: k.kind, Message: "m"})
		if e, ok := errors.AsType[*types.Error](err); !ok || e.Code != k.code {
			t.Errorf("%s, %s: %v, want code %d", k.call, k.kind, err, k.code)
		}
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add([]byte(full), "IgnoreUnknown=1;IP=10.0.0.1")
	f.Add([]byte(`{"name":"a","type":"bridge","ipam":{"type":"vethloom-cni","routes":[{"dst":"::/0"}]}}`), "")
	f.Add([]byte(`{"name":"a","cniVersion":"0.3.0","prevResult":{"cniVersion":"0.3.0","ips":[{"version":"4"}]}}`), "")
	f.Fuzz(func(t *testing.T, text []byte, args string) {
		c, err := readConfig(text)
		if err != nil {
			return
		}
		if _, err := c.previous(); err != nil {
			return
		}
		r, err := c.request(attach.Attach, &skel.CmdArgs{ContainerID: "x", IfName: "eth0", Args: args})
		for _, p := range r.Ports {
			if err == nil && (p.HostPort == 0 || p.Port == 0) {
				t.Fatalf("a port of 0: %+v", p)
			}
		}
	})
}
