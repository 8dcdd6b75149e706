package cli_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cli"
)

// asked remembers what was asked of the networks.
type asked struct {
	server.Networks
	attach cnm.AttachRequest
	change cnm.NetworkChange
	create cnm.NetworkRequest
}

func (a *asked) Connect(_ context.Context, _ string, r cnm.AttachRequest) (server.EndpointView, error) {
	a.attach = r
	return server.EndpointView{}, nil
}

func (a *asked) UpdateNetwork(_ context.Context, _ string, c cnm.NetworkChange) (server.NetworkView, error) {
	a.change = c
	return server.NetworkView{}, nil
}

func (a *asked) CreateNetwork(_ context.Context, r cnm.NetworkRequest) (server.NetworkView, error) {
	a.create = r
	return server.NetworkView{}, nil
}

// What is given to the commands of networks arrives as it is meant.
func TestNetworkFlagsArrive(t *testing.T) {
	a := &asked{}
	n := newNetdFor(t, a)
	run := func(line string) {
		t.Helper()
		var b bytes.Buffer
		app := cli.New("1.0", "abc")
		app.In, app.Out, app.Err = strings.NewReader(""), &b, &b
		app.Env = func(key string) (string, bool) { return "unix://" + n.path, key == "VETHLOOM_HOST" }
		if code := app.Run(context.Background(), strings.Fields(line)); code != 0 {
			t.Fatalf("net %s: %s", line, b.String())
		}
	}
	same := func(line string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("net %s (-want +got):\n%s", line, d)
		}
	}
	const connect = "network connect --rate-in 100mbit --rate-out 64kbit --outbound-ip 192.0.2.9 " +
		"--outbound-ip 2001:db8::9 web box"
	run(connect)
	same(connect, cnm.AttachRequest{Network: "web",
		Outbound:    []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")},
		LinkOptions: cnm.LinkOptions{RateIn: 100_000_000, RateOut: 64_000}}, a.attach)
	const update = "network update -o mtu=1400 --opt-rm icc --label a=1 --label-rm b --internal=false web"
	run(update)
	no := false
	same(update, cnm.NetworkChange{Options: map[string]string{"mtu": "1400"}, RemoveOptions: []string{"icc"},
		Labels: map[string]string{"a": "1"}, RemoveLabels: []string{"b"}, Internal: &no}, a.change)
	run("network update --label a=1 web")
	same("without --internal", (*bool)(nil), a.change.Internal)
	const create = "network create --config-from cfg --internal web"
	run(create)
	same(create, cnm.NetworkRequest{Name: "web", ConfigFrom: "cfg", Internal: true}, a.create)
	run("network create --config-only cfg")
	same("--config-only", true, a.create.ConfigOnly)
	// A container keeps the same for its starts.
	run("create --name box --network name=bridge,rate-out=2.5gbit,outbound-ip=192.0.2.9 busybox")
	view, err := n.domain.Inspect(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	same("create", []cnm.AttachRequest{{Network: "bridge", LinkOptions: cnm.LinkOptions{RateOut: 2_500_000_000},
		Outbound: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}}, view.Spec.Networks)
}
