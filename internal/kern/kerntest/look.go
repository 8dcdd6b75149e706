package kerntest

import (
	"net"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
)

// FastPath finds the fast path of a namespace, given as [Env.Do] takes it, and has f look at it. The links are those of
// the namespace.
func (e *Env) FastPath(t *testing.T, ns string, f func(p *fastpath.Path, links map[uint32]string) error) {
	t.Helper()
	links := map[uint32]string{}
	var indexes []uint32
	enter := func(do func() error) error { return e.Do(ns, do) }
	err := enter(func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			links[uint32(l.Index)] = l.Name
			indexes = append(indexes, uint32(l.Index))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := fastpath.Open(enter, indexes)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := f(p, links); err != nil {
		t.Fatal(err)
	}
}
