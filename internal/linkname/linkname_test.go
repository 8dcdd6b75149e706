package linkname_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/linkname"
)

func TestNames(t *testing.T) {
	id := strings.Repeat("3f2a91bc", 8)
	seen := map[string]bool{}
	for _, p := range linkname.Prefixes() {
		name := linkname.Of(p, id)
		if len(name) > 15 || seen[name] || !linkname.IsOurs(name) || !strings.HasSuffix(name, "3f2a91bc") {
			t.Errorf("name %q", name)
		}
		seen[name] = true
	}
	if got := linkname.Of(linkname.Bridge, "ab"); got != "vlb-ab" {
		t.Errorf("of a short ID: %q", got)
	}
	for _, name := range []string{"", "eth0", "vl", "vlan7", "vlb", "br-vlb-1"} {
		if linkname.IsOurs(name) {
			t.Errorf("%q is taken for ours", name)
		}
	}
}
