package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/vethloom/vethloom/cnm"
)

// What cannot be written to etcd is a problem until it is written; that etcd is full is said with what helps.
func TestWhatIsNotWrittenIsTold(t *testing.T) {
	m := &Member{core: newCore(Config{Host: func() cnm.Host { return cnm.Host{} }})}
	told := func() string { return strings.Join(m.Problems(), "\n") }
	if told() != "" {
		t.Errorf("at first: %s", told())
	}
	for _, err := range []error{rpctypes.ErrNoSpace, fmt.Errorf("register: %s", rpctypes.ErrNoSpace)} {
		m.unwritten(fmt.Errorf("publish: %w", err))
		if !strings.Contains(told(), "(NOSPACE)") || !strings.Contains(told(), "alarm disarm") {
			t.Errorf("a full etcd: %s", told())
		}
	}
	m.unwritten(errNotYet) // says nothing about etcd
	m.unwritten(context.Canceled)
	if !strings.Contains(told(), "cannot be written to etcd") {
		t.Errorf("while it is tried again: %s", told())
	}
	m.unwritten(fmt.Errorf("permission denied"))
	if strings.Contains(told(), "NOSPACE") || !strings.Contains(told(), "permission denied") {
		t.Errorf("another reason: %s", told())
	}
	m.unwritten(nil)
	if told() != "" {
		t.Errorf("once it is written: %s", told())
	}
}

// Whoever writes to etcd can make as many records that make no sense as there are keys.
func TestProblemsAreBounded(t *testing.T) {
	m := &Member{core: newCore(Config{Host: func() cnm.Host { return cnm.Host{} }})}
	for i := range 5000 {
		m.rep.bad[cnm.Key{Kind: "node", ID: fmt.Sprint(i)}] = errors.New("nonsense")
	}
	told := m.Problems()
	if len(told) != maxProblems+1 || told[maxProblems] != "and 4900 more" {
		t.Errorf("%d, the last of them %q", len(told), told[len(told)-1])
	}
}
