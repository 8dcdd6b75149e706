package cluster

import (
	"testing"
	"time"
)

// A call that comes while members of etcd look for another leader waits as long as any other for them, however long
// they have been without one.
func TestACallWaitsForAnElection(t *testing.T) {
	m := &core{turned: make(chan struct{})}
	m.state.Synced, m.state.Since = true, time.Now().Add(-rest)
	go func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.state.Connected = true
		close(m.turned)
	}()
	if err := m.awaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	m.state.Connected, m.state.Since, m.turned = false, time.Now().Add(-moment), make(chan struct{})
	begin := time.Now()
	if err := m.awaitReady(t.Context()); err == nil || time.Since(begin) > rest/2 {
		t.Errorf("an etcd that has gone was waited for: %v after %s", err, time.Since(begin))
	}
}
