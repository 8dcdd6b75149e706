package etcd_test

import (
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// TestFollowProperty lets anything happen in any order: what the changes add up to is what
// etcd lists in the end. The mirror checks each step by itself.
func TestFollowProperty(t *testing.T) {
	path := socket(t)
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	c, p := s.Client(), newProxy(t, path)
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		prefix := fmt.Sprintf("/%d/", round)
		p.heal()
		var m *mirror
		// rapid's T has no cleanup that runs before the next round's: a test of its own has.
		ok := t.Run(fmt.Sprint(round), func(t *testing.T) {
			client := dialSocket(t, p.path)
			// With a large audience, its watch rests soon.
			audience := rapid.SampledFrom([]int{1, 1_000_000}).Draw(r, "audience")
			m = follow(t, client, prefix, etcd.Audience(func() int { return audience }))
			n := rapid.IntRange(1, 60).Draw(r, "steps")
			for i := range n {
				step(t, r, c, p, prefix, i)
			}
			p.heal()
			m.matches(t, c, prefix)
		})
		if !ok {
			r.Fatalf("round %d failed", round)
		}
	})
}

func step(t *testing.T, r *rapid.T, c *clientv3.Client, p *proxy, prefix string, i int) {
	key := func() string { return prefix + rapid.StringMatching("[a-e]{1,2}").Draw(r, "key") }
	ctx := context.Background()
	var err error
	switch op := rapid.IntRange(0, 19).Draw(r, "op"); {
	case op < 9:
		_, err = c.Put(ctx, key(), fmt.Sprint(i))
	case op < 13:
		_, err = c.Delete(ctx, key())
	case op < 15:
		_, err = c.Delete(ctx, key(), clientv3.WithPrefix())
	case op < 16:
		_, err = c.Txn(ctx).Then(clientv3.OpPut(prefix+"x", fmt.Sprint(i)), clientv3.OpPut(prefix+"y", fmt.Sprint(i)),
			clientv3.OpDelete(prefix+"a")).Commit()
	case op < 17:
		var g *clientv3.GetResponse
		if g, err = c.Get(ctx, prefix); err == nil {
			_, err = c.Compact(ctx, g.Header.Revision)
			if err != nil && err.Error() == "etcdserver: mvcc: required revision has been compacted" {
				err = nil // nothing happened since the last
			}
		}
	case op < 18:
		p.cut()
	default:
		p.heal()
	}
	if err != nil {
		t.Fatal(err)
	}
}
