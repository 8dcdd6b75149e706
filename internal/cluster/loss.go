package cluster

import (
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
)

// wiped reports whether an update takes records away as no node ever does: then etcd was emptied, and what is gone is
// not to be given up but to be written again. Nodes never remove the guard, which all who remove networks write. They
// remove one network in one transaction, and never records of two nodes in one; the end of an etcd lease takes those
// of one. What one listing found to be gone may have been removed in many steps, if the guard was written since. The
// caller holds mu.
func (m follower) wiped(u etcd.Update) bool {
	guard := m.cfg.Prefix + "/" + string(record.KindGuard) + "/" + record.GuardID
	guarded := false
	networks, nodes := map[int64]int{}, map[int64]string{}
	for _, c := range u.Changes {
		guarded = guarded || c.Key() == guard && c.New != nil
		if c.Old == nil || c.New != nil && c.New.Create == c.Old.Create {
			continue
		}
		if c.Key() == guard {
			return true
		}
		kind, id, _ := strings.Cut(c.Key()[len(m.cfg.Prefix)+1:], "/")
		switch cnm.Kind(kind) {
		case cnm.KindNetwork:
			networks[c.Revision]++
		case record.KindNode, record.KindEndpoint:
			// The replica may be ahead, and have this node's own endpoints no more.
			if e, err := record.Decode[record.Endpoint](c.Old.Value); cnm.Kind(kind) == record.KindEndpoint {
				if id = e.Node; err != nil || id == "" {
					continue
				}
			}
			if other := nodes[c.Revision]; other != "" && other != id && !u.Whole {
				return true
			}
			nodes[c.Revision] = id
		}
	}
	for _, n := range networks {
		if n > 1 && !(u.Whole && guarded) {
			return true
		}
	}
	return false
}

// empty reports whether the first look at an etcd that this node knows finds no trace of networks, or one that was made
// anew: whether it was emptied meanwhile, the networks that this node has will tell. The caller holds mu.
func (m follower) empty(u etcd.Update) bool {
	if !u.Whole || m.state.Synced || m.self.Cluster == 0 {
		return false
	}
	guard := m.cfg.Prefix + "/" + string(record.KindGuard) + "/" + record.GuardID
	for _, c := range u.Changes {
		if c.Key() == guard && c.New != nil {
			return m.self.Guard != 0 && c.New.Create != m.self.Guard
		}
	}
	return true
}

// lose starts the state of having lost data. The caller holds mu.
func (m *core) lose() {
	m.lost = true
	m.dirty.everything()
}

// lossShown is how long after a loss users are told of it.
const lossShown = 24 * time.Hour

// lossSeen notes that etcd has lost data, for users.
func (m *core) lossSeen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.lossAt) > m.cfg.Times.Grace {
		m.cfg.Log.Error("etcd has lost records of this cluster; traffic goes on, and they are written again")
	}
	m.lossAt = time.Now()
}

// Loss says in words that etcd has lost data in the last day; "" when it has not.
func (m *core) Loss() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lossAt.IsZero() || time.Since(m.lossAt) > lossShown {
		return ""
	}
	text := "etcd lost many records of this cluster at " + m.lossAt.Format(time.DateTime) + ": traffic goes on, "
	if m.lost {
		return text + "and they are being written again"
	}
	return text + "and this node has written its own again"
}
