package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/netns"
)

// Strip takes the programs of the fast path off the links of a host, as somebody might who does not know whose they
// are. Netd puts them back when it looks.
func (l *faulter) Strip(ctx context.Context, host string) error {
	return l.update(ctx, func() error {
		if _, err := l.index(host); err != nil {
			return err
		}
		ns, err := os.Open(l.pin(host))
		if err != nil {
			return fmt.Errorf("enter host %s: %w", host, err)
		}
		defer ns.Close()
		return strip(func(f func() error) error { return netns.Enter(int(ns.Fd()), f) })
	})
}

func strip(enter func(func() error) error) error {
	var links []uint32
	err := enter(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			links = append(links, uint32(i.Index))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list the links: %w", err)
	}
	p, err := fastpath.Open(enter, links)
	if err != nil {
		return err
	}
	for _, i := range links {
		err = errors.Join(err, p.Detach(i))
	}
	return errors.Join(err, p.Close())
}
