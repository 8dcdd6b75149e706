package kern

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

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
