package udp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// TestRouterAnswers sends what cannot be delivered and reads what ping is told.
func TestRouterAnswers(t *testing.T) {
	lab := newLab(t, labConfig{})
	a := lab[0]
	for _, c := range []struct {
		name   string
		args   string
		want   []string
		reason Reason
	}{
		{"TTL used up", "-t 2 10.9.2.2", []string{"From 10.9.1.1", "Time to live exceeded"}, TTLExpired},
		{"hop limit used up", "-t 2 fd09:0:0:2::2", []string{"From fd09:0:0:1::1", "Time exceeded: Hop limit"},
			TTLExpired},
		{"no such net", "10.9.77.1", []string{"From 10.9.1.1", "Destination Net Unreachable"}, NoRoute},
		{"no such IPv6 net", "fd09:0:0:77::1", []string{"From fd09:0:0:1::1", "Destination unreachable: No route"},
			NoRoute},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := a.host.Stats(testLink)
			out, err := a.box.try("ping", append([]string{"-c", "1", "-W", "2"}, strings.Fields(c.args)...)...)
			if err == nil {
				t.Errorf("ping got an answer:\n%s", out)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("ping's output lacks %q:\n%s", w, out)
				}
			}
			await.True(t, "drop and answer are counted", func() bool {
				after := a.host.Stats(testLink)
				return after.Drops[c.reason] > before.Drops[c.reason] && after.Errors > before.Errors
			})
		})
	}
}

// TestRouterAnswersItsOwnHost has the node itself, not a box, send what cannot be delivered.
func TestRouterAnswersItsOwnHost(t *testing.T) {
	a := newLab(t, labConfig{})[0]
	out, err := a.try("ping", "-c", "1", "-W", "2", "-I", "10.9.1.1", "10.9.77.1")
	if err == nil || !strings.Contains(out, "Destination Net Unreachable") {
		t.Errorf("ping ended with %v and said:\n%s", err, out)
	}
}

// TestSmallerPath shrinks the underlay below what the TUN links were made for.
func TestSmallerPath(t *testing.T) {
	for _, outer6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("outer IPv6 %v", outer6), func(t *testing.T) {
			lab := newLab(t, labConfig{outer6: outer6})
			a, b := lab[0], lab[1]
			for _, s := range lab {
				s.ip("link set ul mtu 1400")
			}
			mtu := 1400 - 28
			if outer6 {
				mtu = 1400 - 48
			}
			out, err := a.box.try("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", b.inner4.String())
			if err == nil || !strings.Contains(out, fmt.Sprintf("mtu = %d", mtu)) {
				t.Errorf("ping that must not be fragmented ended with %v and said:\n%s", err, out)
			}
			out, err = a.box.try("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", b.inner6.String())
			if err == nil || !strings.Contains(out, fmt.Sprintf("mtu=%d", mtu)) &&
				!strings.Contains(out, fmt.Sprintf("mtu = %d", mtu)) {
				t.Errorf("IPv6 ping ended with %v and said:\n%s", err, out)
			}
			a.box.run("ping", "-c", "2", "-i", "0.1", "-W", "2", "-M", "dont", "-s", "1400", b.inner4.String())
			transfer(t, a, b, false, 20<<20)
			transfer(t, b, a, true, 20<<20)
			if c := a.host.Stats(testLink); c.Drops[TooBig] == 0 {
				t.Errorf("no packet was too big: %+v", c)
			}
		})
	}
}

// TestPathBelowIPv6Minimum cannot ask an IPv6 sender for packets below 1280 bytes, so the
// tunnel's datagrams are fragmented.
func TestPathBelowIPv6Minimum(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	for _, s := range lab {
		s.ip("link set ul mtu 1200")
	}
	a.box.run("ping", "-c", "2", "-i", "0.1", "-W", "2", "-s", "1300", b.inner6.String())
	transfer(t, a, b, true, 5<<20)
}
