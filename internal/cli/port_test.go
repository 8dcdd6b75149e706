package cli_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/cli"
	"github.com/vethloom/vethloom/plan"
)

// Ports are listed by the names of containers and by their ports, in every form of a list, and can be completed.
func TestPortsOfSeveralContainers(t *testing.T) {
	n := newNetd(t)
	port := func(host, port, count uint16, proto string) cnm.PortMapping {
		m, err := cnm.NewPortMapping("", cnm.PortMapping{}.HostIP, uint32(host), uint32(port), uint32(count))
		if m.Proto = "udp"; proto == "tcp" {
			m.Proto = "tcp"
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, ports := range map[string][]cnm.PortMapping{
		"web":  {port(8443, 443, 1, "tcp"), port(8080, 80, 1, "tcp")},
		"ls":   {port(0, 53, 1, "udp")},
		"many": {port(7000, 7000, 3, "tcp")},
		"none": nil,
	} {
		s := engine.Spec{Name: name, Image: "busybox", Ports: ports}
		if _, _, err := n.domain.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"port ls --format {{.Container}}={{.Address}}={{.Port}}", "ls=0.0.0.0:32768=53/udp\n" +
			"many=0.0.0.0:7000-7002=7000-7002/tcp\nweb=0.0.0.0:8080=80/tcp\nweb=0.0.0.0:8443=443/tcp\n"},
		{"port ls -q web", "0.0.0.0:8080\n0.0.0.0:8443\n"},
		{"port ls ls -q", "0.0.0.0:32768\n"},
		{"port ls none -q", ""},
		{"port ls --format {{.Nope}}", "net: --format: template: "},
		{"port ls nope", "net: container \"nope\": there is none"},
		{"__complete port rm w", "web\n"},
		{"__complete port rm web 8", "8080:80/tcp\n8443:443/tcp\n"},
		{"__complete port rm web 8 84", "8443:443/tcp\n"},
		{"__complete port r", "rm\tPublish ports of a container no more"},
		{"port many 7001", "0.0.0.0:7001\n"},
		{"port rm many 7000-7001", "net: container many: port \"7000-7001/tcp\": "},
		{"port rm many 7000-7003", ""},
		{"port rm web 80 443/udp", "net: container web: port \"443/udp\": "},
	} {
		line, want := c.line, c.want
		var b bytes.Buffer
		app := cli.New("1.0", "abc")
		app.In, app.Out, app.Err = strings.NewReader(""), &b, &b
		app.Env = func(key string) (string, bool) { return "unix://" + n.path, key == "VETHLOOM_HOST" }
		app.Run(context.Background(), strings.Fields(line))
		if !strings.HasPrefix(b.String(), want) || want == "" && b.Len() > 0 {
			t.Errorf("net %s: %q, want %q", line, b.String(), want)
		}
	}
}

// publishers are containers of other engines.
type publishers struct {
	server.Networks
	all []server.EndpointView
}

func (p publishers) ListEndpoints(context.Context, string) ([]server.EndpointView, error) {
	return p.all, nil
}

// Ports of other engines' containers are in the same order, whatever theirs is, and containers of one name stay apart.
func TestPortsOfOtherEnginesAreInOrder(t *testing.T) {
	shop := func(id string, ports ...cnm.PortMapping) server.EndpointView {
		return server.EndpointView{ContainerName: "shop", ContainerID: id,
			Endpoint: cnm.Endpoint{ID: id, Engine: cnm.EngineDocker, Ports: ports}}
	}
	port := func(number uint16, proto plan.L4) cnm.PortMapping {
		return cnm.PortMapping{Proto: proto, HostPort: number + 1000, Port: number, Count: 1,
			HostIP: netip.MustParseAddr("192.0.2.1")}
	}
	n := newNetdFor(t, publishers{all: []server.EndpointView{
		shop("b", port(90, plan.TCP), port(81, plan.UDP), port(81, plan.TCP)),
		shop("a", port(85, plan.TCP), port(83, plan.TCP)),
	}})
	var b bytes.Buffer
	app := cli.New("1.0", "abc")
	app.In, app.Out, app.Err = strings.NewReader(""), &b, &b
	app.Env = func(key string) (string, bool) { return "unix://" + n.path, key == "VETHLOOM_HOST" }
	app.Run(t.Context(), []string{"port", "ls", "--format", "{{.ID}} {{.Port}}"})
	if want := "a 83/tcp\na 85/tcp\nb 81/tcp\nb 81/udp\nb 90/tcp\n"; b.String() != want {
		t.Errorf("net port ls:\n%swant\n%s", b.String(), want)
	}
}
