package kern

import (
	"fmt"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// createTUN makes a link that outlives this process, as its last step: should a crash
// come earlier, the link goes with the descriptor.
func (s *session) createTUN(l plan.Link) error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.closeTunnel(l); err != nil { // of a link that somebody else removed
		return err
	}
	fd, err := s.openTUN(l)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := s.send(l.NS, append(s.firstEnd(l), s.learn(end{l.NS, l.Name}))...); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make the TUN link stay: %w", err)
	}
	return nil
}

// closeTunnel ends the tunnel of a TUN link of the fabric's namespace.
func (s *session) closeTunnel(l plan.Link) error {
	if l.Kind != plan.TUN || l.NS != "" {
		return nil
	}
	if err := s.k.closeTunnel(l.Name); err != nil {
		return fmt.Errorf("close the tunnel of %s: %w", l.Name, err)
	}
	return nil
}

// openTUN makes the link. One of that name that is there already is an error, whatever made it.
func (s *session) openTUN(l plan.Link) (fd int, err error) {
	at, err := s.fd(l.NS)
	if err != nil {
		return -1, err
	}
	err = netns.Enter(at, func() (err error) {
		fd, err = rtnetlink.MakeTUN(rtnetlink.TUNDevice, l.Name)
		return err
	})
	return fd, err
}
