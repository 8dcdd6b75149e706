package udp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/plan"
)

// tunnel is an open tunnel: a TUN link, a socket, and a goroutine that moves packets between them.
type tunnel struct {
	spec   plan.Tunnel
	log    *slog.Logger
	dev    *device
	sock   *socket
	errs   *errorSender
	stop   int // an eventfd that ends the wait for packets
	table  *atomic.Pointer[table]
	count  *counters
	ending atomic.Bool
	dead   atomic.Bool   // the link or the socket failed
	done   chan struct{} // closed when nothing of it is left

	mu       sync.Mutex // guards released: nobody may touch a descriptor afterwards
	released bool
}

// openTunnel attaches and starts. It must run in the fabric's network namespace; what it
// starts need not. With files, it goes on with a link and a socket that are open already, and takes them over.
func openTunnel(spec plan.Tunnel, files []descriptor.Descriptor, l *link, log *slog.Logger, died func(error)) (*tunnel,
	error) {
	t := &tunnel{spec: spec, log: log, stop: -1, table: &l.table, count: &l.count, done: make(chan struct{})}
	err := t.take(files)
	if err == nil {
		err = t.open()
	}
	if err != nil {
		t.release()
		return nil, fmt.Errorf("open tunnel %s: %w", spec.Link, err)
	}
	go t.run(died)
	return t, nil
}

func (t *tunnel) open() error {
	var err error
	if t.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("open an eventfd: %w", err)
	}
	if t.errs, err = newErrorSender(); err != nil || t.dev != nil {
		return err
	}
	if t.sock, err = openSocket(netip.AddrPortFrom(t.spec.Local, t.spec.Port), t.spec.Plain); err != nil {
		return err
	}
	t.dev, err = attach(t.spec.Link, t.spec.Plain)
	return err
}

// run owns everything that is open.
func (t *tunnel) run(died func(error)) {
	defer close(t.done)
	err := t.move()
	if !t.ending.Load() {
		t.dead.Store(true)
	}
	t.release()
	if t.dead.Load() {
		died(fmt.Errorf("tunnel %s ended: %w", t.spec.Link, err))
	}
}

// move moves packets until it is told to stop, or the link or the socket fails. One thread for
// both directions wakes up half as often as two when data goes one way and acknowledgements
// the other. And Go's scheduler takes the waiting thread's turn away, at the cost of starting
// other threads, as soon as no turn is idle: with two that wait, on two processors, always.
func (t *tunnel) move() error {
	out, in := newOutbound(t), newInbound(t)
	for {
		link, datagrams, err := wait(t.dev.fd, t.sock.fd, t.stop)
		if err != nil {
			return err
		}
		for link || datagrams {
			moreOut, moreIn := false, false
			if link {
				if moreOut, err = out.move(); err != nil {
					return err
				}
			}
			if datagrams {
				if moreIn, err = in.move(); err != nil {
					return err
				}
			}
			if t.ending.Load() {
				return errStopped
			}
			link = moreOut || moreIn // neither direction keeps the other waiting
			datagrams = link
		}
	}
}

// wake makes the goroutine return.
func (t *tunnel) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.released {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(t.stop, one[:]) // fails only when it is full, and then it is set
}

// close ends the tunnel and waits until its port and link are free.
func (t *tunnel) close() {
	t.ending.Store(true)
	t.wake()
	<-t.done
}

func (t *tunnel) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.released = true
	if t.dev != nil {
		t.dev.close()
	}
	if t.sock != nil {
		t.sock.close()
	}
	if t.errs != nil {
		t.errs.close()
	}
	if t.stop >= 0 {
		unix.Close(t.stop)
	}
}

// complain sends an ICMP error about a packet to its source, within the rate.
func (t *tunnel) complain(p []byte, v6 bool, c complaint, mtu int) {
	if t.errs.send(p, v6, c, mtu) {
		t.count.errors.Add(1)
	}
}

// same reports whether two tunnels need no other socket or device.
func same(a, b plan.Tunnel) bool {
	return a.Link == b.Link && a.Local == b.Local && a.Port == b.Port && a.Plain == b.Plain
}
