package fabric_test

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// Of three members of etcd each in turn is kept from the others, while clients reach it: changes go on, soon and on
// every node, nobody is told to try again, and nobody is taken for gone.
func TestOneMemberOfEtcdIsIsolated(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdCluster})
	f.until("n1", "net network create -d overlay first")
	for i, e := range []string{"e1", "e2", "e3"} {
		f.run(e, "nft add table inet cut && nft 'add chain inet cut in { type filter hook input priority 0; }' && "+
			"nft 'add chain inet cut out { type filter hook output priority 0; }' && for c in in out; do "+
			"nft add rule inet cut $c tcp dport 2380 drop && nft add rule inet cut $c tcp sport 2380 drop; done")
		for j, n := range []string{"n1", "n2", "n3"} {
			name := fmt.Sprintf("made%d-%d", i, j)
			f.run(n, "timeout 6 net network create -d overlay "+name)
			f.run(n, "timeout 6 net run --rm --network "+name+" busybox true")
			for _, other := range []string{"n1", "n2", "n3"} {
				f.until(other, "net network inspect "+name)
				f.run(other, "test $(net node ls --filter status=ready -q | wc -l) = 3")
			}
		}
		f.run(e, "nft delete table inet cut")
		// It is one member at a time: TCP has to have brought what was lost, and the others to have found a leader whom
		// the one that is back does not question, before the next one is no use.
		for _, e := range []string{"e1", "e2", "e3"} {
			f.until(e, "ss -Htn '( sport = 2380 or dport = 2380 )' | awk '$3 > 0 { waits = 1 } END { exit waits }'")
		}
		f.until("n1", "etcdctl endpoint health")
		f.converged("n1", "n2", "n3")
		for _, n := range []string{"n1", "n2", "n3"} {
			f.until(n, "net status | grep -q '^Store: *connected'")
		}
	}
	f.converged("n1", "n2", "n3")
}
