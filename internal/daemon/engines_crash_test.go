package daemon_test

import (
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/plugin/attach"
)

// TestAttachmentsKilledAtEveryStep kills netd before each step of what CNI runtimes and netavark ask for, and asks the
// next netd for the same, as they do.
func TestAttachmentsKilledAtEveryStep(t *testing.T) {
	var o *others
	call := func(c attach.Call, ports ...attach.Port) func(*node) error {
		return func(*node) error {
			_, err := o.call(c, "a", ports...)
			return err
		}
	}
	attached := call(attach.Attach, attach.Port{Proto: "tcp", HostPort: 8080, Port: 80})
	detached, check := call(attach.Detach), call(attach.Check)
	reserved, collect := call(attach.Reserve), func(n *node) error {
		_, err := attach.Do(n.t.Context(), o.socket(), attach.Request{Call: attach.Collect,
			Key: attach.Key{Engine: "cni"}, Network: "web", Origin: "web"})
		return err
	}
	for _, c := range []crash{
		{"attach", nil, attached, []func(*node) error{attached, check, detached, detached}, 10},
		{"detach", []func(*node) error{attached}, detached, []func(*node) error{detached, attached, detached}, 6},
		{"collect", []func(*node) error{attached}, collect, []func(*node) error{collect, attached, collect}, 6},
		{"reserve", nil, reserved, []func(*node) error{reserved, reserved, detached}, 1},
		{"give back", []func(*node) error{reserved}, detached, []func(*node) error{detached, reserved, detached}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.start()
			n.network("web", func(r *apiv1.CreateNetworkRequest) { r.Pools = []*apiv1.Pool{{Subnet: "10.66.0.0/24"}} })
			o = &others{node: n, dir: t.TempDir()}
			o.add("a")
			t.Cleanup(func() { o.remove("a") })
			n.walkAll(c)
			n.removeNetwork("web")
			n.converged()
		})
	}
}
