package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/ipam"

	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// ownBlock is a block of this node's.
type ownBlock struct {
	network string
	prefix  netip.Prefix
}

// release gives back the blocks that no endpoint has had an address of for a while, but for one a pool: with that
// containers start also while etcd is away. It returns when to look again.
func (m blocks) release(ctx context.Context) (time.Duration, error) {
	next, now := quiet, time.Now()
	idle := map[ownBlock]bool{}
	var errs []error
	for _, id := range m.withBlocks() {
		for _, b := range m.idleBlocks(id) {
			key := ownBlock{id, b}
			idle[key] = true
			since, known := m.idle[key]
			if !known {
				m.idle[key], since = now, now
			}
			if left := m.cfg.Times.Idle - now.Sub(since); left > 0 {
				next = min(next, left)
				continue
			}
			switch err := m.giveBack(ctx, id, b); {
			case err == nil:
				delete(m.idle, key)
				continue
			case !errors.Is(err, errNotYet):
				errs = append(errs, fmt.Errorf("give back the addresses %s: %w", b, err))
			}
			next = min(next, m.cfg.Times.Retry)
		}
	}
	for key := range m.idle {
		if !idle[key] {
			delete(m.idle, key)
		}
	}
	return next, errors.Join(errs...)
}

// withBlocks are the networks that this node has blocks of.
func (m blocks) withBlocks() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, all := range m.rep.blocks {
		if _, there := m.rep.networks[id]; !there || m.lost || !m.state.Connected || m.hasLeft(id) {
			continue
		}
		for _, b := range all {
			if b.v.Node == m.id {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}

// idleBlocks are the blocks of a network that this node can do without.
func (m blocks) idleBlocks(id string) (out []netip.Prefix) {
	m.mu.Lock()
	pools := m.rep.networks[id].v.Pools
	m.mu.Unlock()
	usage := m.cfg.IPAM.Usage(id)
	for _, p := range pools {
		in := func(u ipam.BlockUsage) bool { return p.Subnet.Contains(u.Block.Addr()) }
		kept := slices.ContainsFunc(usage, func(u ipam.BlockUsage) bool { return in(u) && u.Used > 0 && u.Free > 0 })
		for _, u := range usage {
			switch {
			case !in(u) || u.Used > 0:
			case u.Free > 0 && !kept:
				kept = true
			default:
				out = append(out, u.Block)
			}
		}
	}
	return out
}

// releaseTime bounds how long a block is being given back: who needs one waits for it.
const releaseTime = 5 * time.Second

// giveBack takes a block from this node's part of a network first and out of etcd then. What is cut off between the
// two leaves the block this node's, as etcd says it is.
func (m blocks) giveBack(ctx context.Context, id string, b netip.Prefix) error {
	// Who needs a block finds this one its own, or nobody's. While somebody gets one, none is given back.
	if !m.extending.TryLock() {
		return errNotYet
	}
	defer m.extending.Unlock()
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	if !m.cfg.IPAM.Withdraw(id, b) {
		return nil // somebody has an address of it by now
	}
	m.mu.Lock()
	n := clone(m.rep.networks[id].v)
	m.giveBlocks(&n)
	have := m.rep.blocks[id][b]
	m.mu.Unlock()
	whole := clone(n)
	for i := range n.Pools {
		n.Pools[i].Blocks = slices.DeleteFunc(slices.Clone(n.Pools[i].Blocks),
			func(q netip.Prefix) bool { return q == b })
	}
	if err := m.ctrl.Adopt(ctx, n); err != nil {
		return errors.Join(err, m.cfg.IPAM.Update(whole))
	}
	err := m.commit(ctx, []etcdstore.LeasedWrite{{Write: cnm.Write{Key: record.BlockKey(id, b),
		Revision: uint64(have.mod)}}})
	if err != nil {
		m.mu.Lock()
		m.dirty.networks[id] = true // it is this node's still
		m.mu.Unlock()
	}
	return quietly(err)
}
