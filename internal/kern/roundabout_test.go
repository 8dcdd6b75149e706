package kern

import (
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// TestTrafficControlOfOthersIsSeen finds queues of others at our links, filters of others at any, and none that nobody
// has made.
func TestTrafficControlOfOthersIsSeen(t *testing.T) {
	env := kerntest.New(t)
	k := openHere(t, env)
	for _, l := range []string{"vle-1", "vlb-2", "up3"} {
		env.Sh("ip link add " + l + " up type bridge")
		defer env.Sh("ip link del " + l)
	}
	env.Sh("ip tuntap add vlt-4 mode tun; ip link set vlt-4 up") // it has a queue by itself
	defer env.Sh("ip link del vlt-4")
	for _, c := range []struct {
		made           string
		links, devices []string
	}{
		{"true", nil, nil},
		{"tc qdisc add dev vle-1 root tbf rate 1mbit burst 10k latency 50ms; tc qdisc add dev up3 root pfifo",
			[]string{"vle-1"}, nil},
		{"tc qdisc add dev vlb-2 clsact; tc qdisc add dev up3 clsact", []string{"vle-1"}, nil},
		{"tc filter add dev vlb-2 egress bpf da bytecode '1,6 0 0 2,'", []string{"vlb-2", "vle-1"}, []string{"vlb-2"}},
		{"tc filter add dev up3 ingress bpf da bytecode '1,6 0 0 2,'",
			[]string{"up3", "vlb-2", "vle-1"}, []string{"up3", "vlb-2"}},
	} {
		env.Sh(c.made)
		links, devices, err := k.ForeignLinks(t.Context())
		if err != nil || !slices.Equal(links, c.links) || !slices.Equal(devices, c.devices) {
			t.Errorf("after %s: %q, at %q, %v", c.made, links, devices, err)
		}
	}
}

// TestIPsecIsSeen finds policies of every direction, and none where there is none.
func TestIPsecIsSeen(t *testing.T) {
	env := kerntest.New(t)
	k := openHere(t, env)
	check := func(want bool, what string) {
		t.Helper()
		if got, err := k.HasIPsec(); err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	check(false, "nobody")
	for _, dir := range []string{"in", "out", "fwd"} {
		selector := "policy %s src 192.0.2.1/32 dst 192.0.2.2/32 dir " + dir
		env.Sh("ip xfrm " + strings.Replace(selector, "%s", "add", 1) + " tmpl proto esp mode transport")
		check(true, dir)
		env.Sh("ip xfrm " + strings.Replace(selector, "%s", "delete", 1))
		check(false, dir+", gone")
	}
}
