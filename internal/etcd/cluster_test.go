package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// three is a cluster of three processes.
type three struct {
	members   [3]member
	processes [3]*process
	endpoints []string
}

func newThree(t *testing.T) *three {
	t.Helper()
	c, dir := &three{}, shortDir(t)
	// A loopback address of its own, so that nobody else takes a port that was free a moment ago.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.N(250), rand.N(250), 2+rand.N(250))
	var cluster []string
	var taken [3]net.Listener // all at once: a port that is given back may be the next one's
	for i := range c.members {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		m := member{
			Name: fmt.Sprintf("m%d", i), Dir: filepath.Join(dir, fmt.Sprint(i)),
			Client: "unix://" + filepath.Join(dir, fmt.Sprintf("s%d", i)), Peer: "http://" + l.Addr().String(),
		}
		taken[i] = l
		defer l.Close()
		c.members[i], c.endpoints = m, append(c.endpoints, m.Client)
		cluster = append(cluster, m.Name+"="+m.Peer)
	}
	for _, l := range taken {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.members {
		c.members[i].Cluster = strings.Join(cluster, ",")
		c.processes[i] = spawn(t, c.members[i])
	}
	return c
}

// leader finds the member that leads.
func (c *three) leader(t *testing.T, client *clientv3.Client) int {
	t.Helper()
	leader := -1
	eventually(t, "a leader", func(ctx context.Context) error {
		for i, e := range c.endpoints {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			r, err := client.Status(ctx, e)
			cancel()
			if err == nil && r.Leader != 0 && r.Leader == r.Header.MemberId {
				leader = i
				return nil
			}
		}
		return fmt.Errorf("none of %v leads", c.endpoints)
	})
	return leader
}

// TestClusterLosesLeader kills the leader twice while others write: nothing is missed, and a lease goes on.
func TestClusterLosesLeader(t *testing.T) {
	cluster := newThree(t)
	client := etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints})
	put(t, client, "/d/first", "1")
	m := follow(t, etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints}), "/d/")
	m.matches(t, client, "/d/")
	lease := etcd.NewLease(client, 30*time.Second, 0, nil)
	run(t, lease)
	<-lease.Changed()
	id := lease.ID()
	for round := range 2 {
		leader := cluster.leader(t, client)
		put(t, client, fmt.Sprintf("/d/before%d", round), "1")
		cluster.processes[leader].kill()
		for i := range 10 {
			put(t, client, fmt.Sprintf("/d/%d-%d", round, i), "1")
		}
		m.matches(t, client, "/d/")
		cluster.processes[leader] = spawn(t, cluster.members[leader])
		put(t, client, fmt.Sprintf("/d/after%d", round), "1")
		m.matches(t, client, "/d/")
		eventually(t, "the member's return", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := client.Status(ctx, cluster.endpoints[leader])
			return err
		})
	}
	if lease.ID() != id {
		t.Errorf("the lease %x became %x", id, lease.ID())
	}
}

// TestClusterWithoutQuorum leaves one member of three: it must not be taken for etcd.
func TestClusterWithoutQuorum(t *testing.T) {
	cluster := newThree(t)
	client := etcdtest.Dial(t, etcd.Config{Endpoints: cluster.endpoints[:1]})
	put(t, client, "/d/a", "1")
	m := follow(t, client, "/d/")
	m.matches(t, client, "/d/")
	cluster.processes[1].kill()
	cluster.processes[2].kill()
	m.disconnected(t)
	for i := range 2 {
		cluster.processes[i+1] = spawn(t, cluster.members[i+1])
	}
	put(t, client, "/d/b", "1")
	m.matches(t, client, "/d/")
}

// TestMemberWithoutLeader asks a member that is cut off from its cluster beside members that are not: calls go to those
// at once, and those about the member itself still do not.
func TestMemberWithoutLeader(t *testing.T) {
	lost, well := newThree(t), newThree(t)
	alone := etcdtest.Dial(t, etcd.Config{Endpoints: lost.endpoints[:1]})
	put(t, alone, "/d/a", "1")
	lost.processes[1].kill()
	lost.processes[2].kill()
	client := etcdtest.Dial(t, etcd.Config{Endpoints: append([]string{lost.endpoints[0]}, well.endpoints...)})
	eventually(t, "the member's loss of its leader", func(ctx context.Context) error {
		r, err := client.Status(ctx, lost.endpoints[0])
		if err == nil && r.Leader != 0 {
			err = fmt.Errorf("%x leads", r.Leader)
		}
		return err
	})
	put(t, client, "/d/first", "1") // the others have a leader too
	// A member without a leader lets a call wait for 7 s (etcd's request timeout with its usual settings).
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for i := range 20 {
		if _, err := client.Put(ctx, fmt.Sprintf("/d/%d", i), "1"); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		if _, err := client.Get(ctx, fmt.Sprintf("/d/%d", i)); err != nil {
			t.Fatalf("read %d: %v", i, err)
		}
	}
	if _, err := alone.Put(ctx, "/d/b", "1"); err == nil {
		t.Error("a member without a leader wrote")
	}
}
