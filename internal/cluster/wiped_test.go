package cluster

import (
	"testing"

	"github.com/vethloom/vethloom/internal/etcd"
)

// What nodes do themselves is an order; what only somebody who empties etcd does is a loss.
func TestWiped(t *testing.T) {
	m := newCore(Config{Prefix: "/v"})
	made := func(key string, create, mod int64) *etcd.Item { return &etcd.Item{Key: key, Create: create, Mod: mod} }
	gone := func(key string, at int64) etcd.Change { return etcd.Change{Old: made(key, 1, 1), Revision: at} }
	endpoint := func(id, node string) etcd.Change {
		c := gone("/v/endpoint/"+id, 9)
		c.Old.Value = []byte(`{"node":"` + node + `"}`)
		return c
	}
	changed := func(c ...etcd.Change) etcd.Update { return etcd.Update{Changes: c} }
	listed := func(c ...etcd.Change) etcd.Update { return etcd.Update{Whole: true, Changes: c} }
	guard := etcd.Change{Old: made("/v/guard/networks", 1, 1), New: made("/v/guard/networks", 1, 9), Revision: 9}
	again := etcd.Change{Old: made("/v/guard/networks", 1, 1), New: made("/v/guard/networks", 9, 9), Revision: 9}
	for name, c := range map[string]struct {
		u    etcd.Update
		want bool
	}{
		"nothing":                   {etcd.Update{}, false},
		"a removal":                 {changed(guard, gone("/v/network/a", 9)), false},
		"by hand":                   {changed(gone("/v/network/a", 9)), false},
		"one after the other":       {changed(gone("/v/network/a", 8), gone("/v/network/b", 9)), false},
		"at once":                   {changed(gone("/v/network/a", 9), gone("/v/network/b", 9)), true},
		"found later":               {listed(gone("/v/network/a", 9), gone("/v/network/b", 9)), true},
		"removed while it was away": {listed(gone("/v/network/a", 9), guard, gone("/v/network/b", 9)), false},
		"the guard":                 {changed(gone("/v/guard/networks", 9)), true},
		"the guard, made again":     {changed(again), true},
		"a node that leaves":        {changed(gone("/v/node/a", 9), gone("/v/alive/a", 9)), false},
		"two that leave":            {changed(gone("/v/node/a", 8), gone("/v/node/b", 9)), false},
		"two nodes at once":         {changed(gone("/v/node/a", 9), gone("/v/node/b", 9)), true},
		"two that left meanwhile":   {listed(gone("/v/node/a", 9), gone("/v/node/b", 9)), false},
		"a network's blocks":        {changed(gone("/v/block/n.a", 9), gone("/v/block/n.b", 9)), false},
		"endpoints of a node":       {changed(endpoint("n.a", "x"), endpoint("n.b", "x"), gone("/v/node/x", 9)), false},
		"endpoints of two nodes":    {changed(endpoint("n.a", "x"), endpoint("n.b", "y")), true},
	} {
		if got := m.follower.wiped(c.u); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
