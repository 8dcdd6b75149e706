package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

// asDocker makes a call as dockerd does.
func (n *node) asDocker(method, body string) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.RunDir, "relay.sock"))
		}}}
	r, err := c.Post("http://netd/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var answer struct{ Err string }
	if err = json.NewDecoder(r.Body).Decode(&answer); err == nil && answer.Err != "" {
		err = errors.New(answer.Err)
	}
	return err
}

// TestDockersCallsKilledAtEveryStep kills netd before each step of what dockerd asks for, and repeats the call at the
// next netd, as dockerd does.
func TestDockersCallsKilledAtEveryStep(t *testing.T) {
	network, own := "1111"+sandboxID[4:], "2222"+sandboxID[4:]
	of := fmt.Sprintf(`{"NetworkID": %q, "EndpointID": %q`, network, sandboxID)
	pool := ""
	calls := func(list ...string) func(*node) error {
		return func(n *node) error {
			for i := 0; i < len(list); i += 2 {
				if err := n.asDocker(list[i], strings.ReplaceAll(list[i+1], "POOL", pool)); err != nil {
					return fmt.Errorf("%s: %w", list[i], err)
				}
			}
			return nil
		}
	}
	start := calls("IpamDriver.RequestAddress", `{"PoolID": "POOL", "Address": "10.66.0.77"}`,
		"NetworkDriver.CreateEndpoint", of+`, "Interface": {"Address": "10.66.0.77/24"}}`,
		"NetworkDriver.Join", of+`, "SandboxKey": "/nowhere"}`, "NetworkDriver.ProgramExternalConnectivity",
		of+`, "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]}}`)
	stop := calls("NetworkDriver.RevokeExternalConnectivity", of+"}", "NetworkDriver.Leave", of+"}",
		"NetworkDriver.DeleteEndpoint", of+"}", "IpamDriver.ReleaseAddress",
		`{"PoolID": "POOL", "Address": "10.66.0.77"}`)
	create := calls("NetworkDriver.CreateNetwork", `{"NetworkID": "`+own+`", "Options": `+
		`{"com.docker.network.generic": {"icc": "false"}}, "IPv4Data": [{"AddressSpace": "LocalDefault", `+
		`"Pool": "10.67.0.0/24"}]}`)
	remove := calls("NetworkDriver.DeleteNetwork", `{"NetworkID": "`+own+`"}`)
	for _, c := range []crash{
		{"start a container", nil, start, []func(*node) error{start, stop, stop}, 12},
		{"stop a container", []func(*node) error{start}, stop, []func(*node) error{stop, start, stop}, 8},
		{"make a network", nil, create, []func(*node) error{create, remove, remove}, 6},
		{"remove a network", []func(*node) error{create}, remove, []func(*node) error{remove, create, remove}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.cfg.DockerPlugin, n.cfg.Relay = filepath.Join(n.RunDir, "plugin.sock"), shimtest.Relay(t)
			n.start()
			web := n.network("web", func(r *apiv1.CreateNetworkRequest) {
				r.Pools = []*apiv1.Pool{{Subnet: "10.66.0.0/24"}}
			})
			pool = web.Id + "/4"
			join := calls("NetworkDriver.CreateNetwork", `{"NetworkID": "`+network+`", "Options": `+
				`{"com.docker.network.generic": {"net": "web"}}, "IPv4Data": [{"AddressSpace": "vethloom", `+
				`"Pool": "10.66.0.0/24"}]}`)
			if err := join(n); err != nil {
				t.Fatal(err)
			}
			n.walkAll(c)
			if err := calls("NetworkDriver.DeleteNetwork", `{"NetworkID": "`+network+`"}`)(n); err != nil {
				t.Error(err)
			}
			n.removeNetwork("web")
			n.converged()
		})
	}
}
