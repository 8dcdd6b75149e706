package cluster_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

// A tunnel's port is none of a service, whoever wrote it.
func TestTheTunnelsPort(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	for _, driver := range []string{"overlay", "vxlan"} {
		_, err := one.Controller.CreateNetwork(ctx, request(driver, "53"))
		if err == nil || !strings.Contains(err.Error(), "below 1024") {
			t.Errorf("%s on port 53: %v", driver, err)
		}
	}
	good, err := one.Controller.CreateNetwork(ctx, request("overlay", "5353"))
	if err != nil {
		t.Fatal(err)
	}
	two.adopted(ctx, good.Name)
	text := one.get(ctx, "network/"+good.ID)
	bad := strings.Replace(text, `"port":5353`, `"port":53`, 1)
	if bad == text {
		t.Fatal(text)
	}
	one.put(ctx, "network/"+good.ID, bad)
	two.problem(good.Name, "below 1024")
	if n := two.adopted(ctx, good.Name); n.Cluster.Port != 5353 {
		t.Errorf("the port is %d", n.Cluster.Port)
	}
	one.put(ctx, "network/"+good.ID, text)
	await.True(t, "nothing is wrong", func() bool { return len(two.Member.Problems()) == 0 })
}

func request(driver, port string) cnm.NetworkRequest {
	return cnm.NetworkRequest{Name: driver, Driver: driver, Options: map[string]string{"port": port},
		Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("10.1.0.0/16")}}}
}

// A network does not take a port that a container publishes, on the node that makes it or on another.
func TestATunnelTakesNoPublishedPort(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	if _, err := two.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: "own", Driver: "overlay"}); err != nil {
		t.Fatal(err)
	}
	s, _, err := two.Controller.CreateSandbox(ctx, cnm.SandboxRequest{Name: "dns",
		Attach: []cnm.AttachRequest{{Network: "own", Name: "dns"}},
		Ports:  []cnm.PortMapping{{Proto: plan.UDP, HostPort: 5350, Port: 53, Count: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = two.Controller.CreateNetwork(ctx, request("overlay", "5353"))
	if err == nil || !strings.Contains(err.Error(), `port "5353": container dns publishes it`) {
		t.Errorf("made where it is published: %v", err)
	}
	n, err := one.Controller.CreateNetwork(ctx, request("overlay", "5353"))
	if err != nil {
		t.Fatal(err)
	}
	two.problem(n.Name, "container dns publishes it")
	if err := two.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	two.adopted(ctx, n.Name)
}
