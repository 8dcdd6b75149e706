package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Patience is how long the start of one daemon may take on a busy machine.
const Patience = 60 * time.Second

// Up builds a lab: the underlay, the hosts on it, etcd, then netd on every node. When it fails,
// or the context ends, nothing is left.
func Up(ctx context.Context, c Config) (*Lab, error) {
	if err := NeedRoot(); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	l := newLab(&state{Config: c, Members: c.members()})
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of labs: %w", err)
	}
	if err := os.Mkdir(l.path(), 0o711); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("lab %q exists: netlab down --name %s removes it, or choose another name", c.Name,
			c.Name)
	} else if err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	if err := l.build(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), Patience)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("lab %q: %w", c.Name, err), Down(undo, c.Dir, c.Name))
	}
	return l, nil
}

// NeedRoot refuses users who cannot make network namespaces.
func NeedRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return errors.New("a lab is made of network namespaces and runs containers, which needs root: sudo netlab …")
}

func (l *builder) build(ctx context.Context) error {
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.save(); err != nil {
		return err
	}
	if err := l.makeUnderlay(ctx); err != nil {
		return err
	}
	for _, m := range l.Members {
		if err := l.plug(ctx, m); err != nil {
			return err
		}
	}
	if !l.NoImage {
		if err := l.writeImage(ctx, l.path(imageFile)); err != nil {
			return err
		}
	}
	for _, kind := range []Kind{Server, Node} {
		if err := l.startAll(ctx, kind); err != nil {
			return err
		}
	}
	l.Ready = true
	return l.save()
}

// makeUnderlay makes the namespace that plays the cables, switches and the router between hosts. It
// has no link to anywhere else.
func (l *builder) makeUnderlay(ctx context.Context) error {
	if err := l.makeNamespace(ctx, Underlay); err != nil {
		return err
	}
	var lines []string
	for _, s := range l.segments() {
		lines = append(lines,
			"link add "+s.bridge+" type bridge mcast_snooping 0",
			"addr add "+s.v4.String()+" dev "+s.bridge)
		if l.IPv6 {
			lines = append(lines, "addr add "+s.v6.String()+" dev "+s.bridge+" nodad")
		}
		lines = append(lines, "link set "+s.bridge+" up")
	}
	if err := l.ip(ctx, Underlay, lines...); err != nil {
		return fmt.Errorf("make the underlay: %w", err)
	}
	if !l.Routers {
		return nil
	}
	_, err := l.in(ctx, Underlay, "sh", "-ec",
		"echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	if err != nil {
		return fmt.Errorf("make the router: %w", err)
	}
	return nil
}

// makeNamespace makes and pins a network namespace with loopback up.
func (l *builder) makeNamespace(ctx context.Context, host string) error {
	pin := l.pin(host)
	if err := os.MkdirAll(filepath.Dir(pin), 0o711); err != nil {
		return fmt.Errorf("make %s: %w", host, err)
	}
	if err := os.WriteFile(pin, nil, 0o600); err != nil {
		return fmt.Errorf("make %s: %w", host, err)
	}
	// Duplicate address detection would keep new IPv6 addresses from being used for a second.
	script := "ip link set lo up; for k in default all; do echo 0 >/proc/sys/net/ipv6/conf/$k/accept_dad; done"
	if _, err := l.run(ctx, "unshare", "--net="+pin, "sh", "-ec", script); err != nil {
		return fmt.Errorf("make the network namespace of %s: %w", host, err)
	}
	return nil
}

// plug makes a host and joins it to the underlay by a cable: eth0 here, a port of the host's name there.
func (l *builder) plug(ctx context.Context, m Member) error {
	if err := os.MkdirAll(l.path(m.Name), 0o711); err != nil {
		return fmt.Errorf("make %s: %w", m.Name, err)
	}
	if err := l.makeNamespace(ctx, m.Name); err != nil {
		return err
	}
	s := l.segment(m)
	err := l.ip(ctx, Underlay,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", m.Name, l.pin(m.Name)),
		fmt.Sprintf("link set %s master %s up", m.Name, s.bridge))
	if err != nil {
		return fmt.Errorf("plug in %s: %w", m.Name, err)
	}
	lines := []string{
		fmt.Sprintf("addr add %s/%d brd + dev eth0", m.Addr4, s.v4.Bits()),
		"link set eth0 up",
		"route add default via " + s.v4.Addr().String(),
	}
	if m.Addr6.IsValid() {
		lines = append(lines,
			fmt.Sprintf("addr add %s/%d dev eth0 nodad", m.Addr6, s.v6.Bits()),
			"route add default via "+s.v6.Addr().String())
	}
	if err := l.ip(ctx, m.Name, lines...); err != nil {
		return fmt.Errorf("configure %s: %w", m.Name, err)
	}
	if !l.Plain {
		return nil
	}
	_, err = l.in(ctx, m.Name, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
		"tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
	if err != nil {
		return fmt.Errorf("take the offloads from %s: %w", m.Name, err)
	}
	return nil
}

// startAll starts the daemons of one kind side by side and waits until each answers.
func (l *builder) startAll(ctx context.Context, kind Kind) error {
	var wg sync.WaitGroup
	errs := make([]error, len(l.Members))
	for i, m := range l.Members {
		if m.Kind == kind {
			wg.Go(func() { errs[i] = l.start(ctx, i) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// start starts a member's daemon, waits for it, and gives a node its image. The caller holds the lab's lock.
func (l *builder) start(ctx context.Context, i int) error {
	m, err := l.launch(ctx, i)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("it takes more than %s", Patience))
	defer cancel()
	ready := l.etcdReady
	if m.Kind == Node {
		ready = l.netdReady
	}
	var last error = context.DeadlineExceeded
	err = until(ctx, m.Name+" answers", func() (bool, error) {
		if !m.Proc.Alive() {
			return false, fmt.Errorf("it ended:\n%s", l.tail(m.Name, 8))
		}
		once, cancel := context.WithTimeout(ctx, Patience/6)
		defer cancel()
		if err := ready(once, m); err != nil {
			last = err
			return false, nil
		}
		return true, nil
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w; its log ends with\n%s", err, last, l.stacks(context.WithoutCancel(ctx), m))
	}
	if err != nil || m.Kind != Node || l.NoImage {
		return err
	}
	return l.giveImage(ctx, m.Name)
}

// launch starts the process and records it, so that a netlab that dies now leaves a trace.
func (l *builder) launch(ctx context.Context, i int) (Member, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &l.Members[i]
	args := l.netd(*m)
	if m.Kind == Server {
		args = l.etcd(*m)
	}
	p, err := l.background(ctx, m.Name, args...)
	if err != nil {
		return *m, err
	}
	m.Proc = p
	return *m, l.save()
}
