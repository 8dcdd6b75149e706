package cluster

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/subnet"
)

// What a directory says of a prefix is what a look at each lease says, whatever the leases' lengths and families.
func TestDirectoryKnowsWhatItsLeasesHave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := newDirectory(nil)
		draw := func(label string) netip.Prefix {
			b := byte(rapid.IntRange(0, 15).Draw(t, label))
			if rapid.Bool().Draw(t, label+" is IPv6") {
				a := netip.AddrFrom16([16]byte{0xfd, 15: b})
				return netip.PrefixFrom(a, rapid.IntRange(122, 128).Draw(t, label+" bits")).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, b, 0}),
				rapid.IntRange(18, 26).Draw(t, label+" bits")).Masked()
		}
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			key := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "key"))
			if rapid.Bool().Draw(t, "drop") {
				dir.drop(key)
				continue
			}
			dir.put(subnet.Lease{Key: key, Subnet: draw("lease")})
		}
		p, want := draw("prefix"), false
		for _, l := range dir.leases {
			want = want || l.Subnet.Overlaps(p)
		}
		if got := dir.overlaps(p); got != want {
			t.Fatalf("overlaps(%s) = %v among %v", p, got, dir.leases)
		}
	})
}
