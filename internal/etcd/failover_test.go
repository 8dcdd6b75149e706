package etcd_test

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// soon is how long a change may take while one member of three is no use: an election, and going elsewhere.
const soon = 5 * time.Second

// One member of three is cut off from the others, hangs, or is dead, and it is the one in use: a change that takes
// several calls is done soon all the same, what is followed goes on, and a lease lives.
func TestAMemberIsNoUse(t *testing.T) {
	for name, fault := range map[string]struct{ harm, heal func(*testing.T, *process) }{
		"isolated": {func(t *testing.T, p *process) { p.tell(t, "cut") },
			func(t *testing.T, p *process) { p.tell(t, "mend") }},
		"stopped": {func(t *testing.T, p *process) { p.signal(t, syscall.SIGSTOP) },
			func(t *testing.T, p *process) { p.signal(t, syscall.SIGCONT) }},
		"dead": {func(_ *testing.T, p *process) { p.kill() }, func(*testing.T, *process) {}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newThree(t)
			client := etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints})
			put(t, client, "/d/first", "1")
			m := follow(t, client, "/d/")
			m.matches(t, client, "/d/")
			lease := etcd.NewLease(client, 8*time.Second, 0, nil)
			run(t, lease)
			<-lease.Changed()
			id := lease.ID()
			in := slices.Index(cluster.endpoints, client.Endpoints()[0])
			fault.harm(t, cluster.processes[in])
			for i := range 4 {
				change(t, client, fmt.Sprintf("/d/%d", i))
			}
			m.matches(t, client, "/d/")
			if now := client.Endpoints(); len(now) != 1 || now[0] == cluster.endpoints[in] {
				t.Errorf("the client is at %v still", now)
			}
			if grant, err := client.TimeToLive(t.Context(), clientv3.LeaseID(id)); err != nil || grant.TTL <= 0 {
				t.Errorf("the lease is over: %+v, %v", grant, err)
			}
			fault.heal(t, cluster.processes[in])
			put(t, client, "/d/last", "1")
			m.matches(t, client, "/d/")
			if lease.ID() != id {
				t.Errorf("the lease %x became %x", id, lease.ID())
			}
		})
	}
}

// change reads and then writes, as netd does to make a network: no call fails.
func change(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	_, err := c.Get(ctx, "/d/guard")
	if err == nil {
		r, failed := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "1")).Commit()
		if err = failed; err == nil && !r.Succeeded {
			t.Errorf("%s is said to be there already", key)
		}
	}
	t.Logf("%s after %v: %v", key, time.Since(begin), err)
	if err != nil {
		t.Errorf("a change failed after %v: %v", time.Since(begin), err)
	}
}

// at is a client that is at a certain member.
func (c *three) at(t *testing.T, i int) *clientv3.Client {
	t.Helper()
	for {
		client, err := etcd.Dial(etcd.Config{Endpoints: c.endpoints})
		if err != nil {
			t.Fatal(err)
		}
		if client.Endpoints()[0] == c.endpoints[i] {
			t.Cleanup(func() { _ = client.Close() })
			return client
		}
		_ = client.Close()
	}
}

// A change that is under way when its member loses the others, or hangs, or dies, is made at another one, whether the
// member led them or not. What it was is done once.
func TestACallMeetsAMemberThatLosesTheOthers(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, *process){
		"isolated": func(t *testing.T, p *process) { p.tell(t, "cut") },
		"stopped":  func(t *testing.T, p *process) { p.signal(t, syscall.SIGSTOP) },
		"dead":     func(_ *testing.T, p *process) { p.kill() },
	} {
		for _, leads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, leads: %v", name, leads), func(t *testing.T) {
				cluster := newThree(t)
				put(t, etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints}), "/d/first", "1")
				i := cluster.leader(t, etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints}))
				if !leads {
					i = (i + 1) % 3
				}
				client := cluster.at(t, i)
				put(t, client, "/d/second", "1")
				harm(t, cluster.processes[i])
				ctx, cancel := context.WithTimeout(t.Context(), soon)
				defer cancel()
				r, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision("/d/a"), "=", 0)).
					Then(clientv3.OpPut("/d/a", "1")).Commit()
				if err != nil || !r.Succeeded {
					t.Fatalf("a transaction: %+v, %v", r, err)
				}
				now, err := client.Get(ctx, "/d/a")
				if err != nil || len(now.Kvs) != 1 || now.Kvs[0].ModRevision != r.Header.Revision ||
					now.Kvs[0].Version != 1 {
					t.Errorf("written at %d: %+v, %v", r.Header.Revision, now, err)
				}
			})
		}
	}
}

// deaf is a client that is at a member whose answers are lost, another one that is well, and a key's revision.
func deaf(t *testing.T) (client, other *clientv3.Client, old int64) {
	t.Helper()
	cluster := newThree(t)
	p := newProxy(t, cluster.endpoints[0][len("unix://"):])
	cluster.endpoints[0] = "unix://" + p.path
	client, other = cluster.at(t, 0), etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints[1:]})
	put(t, client, "/d/old", "1")
	r, err := other.Get(t.Context(), "/d/old")
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("/d/old: %+v, %v", r, err)
	}
	p.loseAnswers()
	return client, other, r.Kvs[0].ModRevision
}

// What was done and not answered for is told from what was not done, and is done once.
func TestTheAnswerToATransactionIsLost(t *testing.T) {
	mod := func(key string, revision int64) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
	}
	for name, c := range map[string]struct {
		key  string
		do   clientv3.Op
		want int64 // the key's version then; 0: there is none
	}{
		"makes":   {"/d/new", clientv3.OpPut("/d/new", "2"), 1},
		"changes": {"/d/old", clientv3.OpPut("/d/old", "2"), 2},
		"deletes": {"/d/old", clientv3.OpDelete("/d/old"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			client, other, old := deaf(t)
			if c.key != "/d/old" {
				old = 0
			}
			r, err := client.Txn(t.Context()).If(mod(c.key, old)).Then(c.do).Commit()
			if err != nil || !r.Succeeded || len(r.Responses) != 1 {
				t.Fatalf("the transaction: %+v, %v", r, err)
			}
			now, err := other.Get(t.Context(), c.key)
			if err != nil || c.want == 0 && len(now.Kvs) > 0 {
				t.Fatalf("then: %+v, %v", now, err)
			}
			if c.want > 0 && (now.Kvs[0].Version != c.want || now.Kvs[0].ModRevision != r.Header.Revision) {
				t.Errorf("written at %d, then: %+v", r.Header.Revision, now)
			}
		})
	}
	t.Run("somebody was quicker", func(t *testing.T) {
		client, other, old := deaf(t)
		put(t, other, "/d/old", "theirs")
		r, err := client.Txn(t.Context()).If(mod("/d/old", old)).Then(clientv3.OpPut("/d/old", "ours")).Commit()
		if err != nil || r.Succeeded {
			t.Errorf("the transaction: %+v, %v", r, err)
		}
	})
	t.Run("somebody changed it since", func(t *testing.T) {
		client, other, old := deaf(t)
		seen := other.Watch(t.Context(), "/d/old", clientv3.WithRev(old+1))
		overwritten := make(chan error, 1)
		go func() {
			<-seen
			_, err := other.Put(t.Context(), "/d/old", "theirs")
			overwritten <- err
		}()
		r, err := client.Txn(t.Context()).If(mod("/d/old", old)).Then(clientv3.OpPut("/d/old", "ours")).Commit()
		if err := <-overwritten; err != nil {
			t.Fatal(err)
		}
		if err != nil || r.Succeeded {
			t.Errorf("the transaction: %+v, %v", r, err)
		}
	})
}

// What cannot be told is not done again.
func TestTheAnswerToAWriteIsLost(t *testing.T) {
	client, other, _ := deaf(t)
	if r, err := client.Put(t.Context(), "/d/old", "2"); err == nil {
		t.Errorf("a write without an answer: %+v", r)
	}
	r, err := other.Get(t.Context(), "/d/old")
	if err != nil || r.Kvs[0].Version != 2 {
		t.Errorf("it was not done once: %+v, %v", r, err)
	}
	if _, err := client.Grant(t.Context(), 10); err != nil {
		t.Errorf("a lease: %v", err)
	}
}
