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

// change reads and then writes, as netd does to make a network: the first time it fails it is made again at once.
func change(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	begin := time.Now()
	var err error
	for time.Since(begin) < soon {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		if _, err = c.Get(ctx, "/d/guard"); err == nil {
			_, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
				Then(clientv3.OpPut(key, "1")).Commit()
		}
		cancel()
		if err == nil {
			break
		}
	}
	t.Logf("%s after %v: %v", key, time.Since(begin), err)
	if d := time.Since(begin); err != nil || d > soon {
		t.Errorf("a change took %v: %v", d, err)
	}
}
