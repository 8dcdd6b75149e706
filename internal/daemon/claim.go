package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// claimName is in the abstract namespace of unix sockets, of which every network
// namespace has its own, and the kernel frees a name with its process: see unix(7).
const claimName = "@vethloom/netd"

// claimTimeout covers the last moments of a netd that is being replaced.
const claimTimeout = 5 * time.Second

// claimNetNS keeps a second netd out of this network namespace: each would take
// for a leftover what the other has made. Any user can bind the name. One who is
// not root keeps nobody out; a second netd is then not noticed, which is logged.
func claimNetNS(ctx context.Context, log *slog.Logger, timeout time.Duration) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	var lc net.ListenConfig
	for {
		l, err := lc.Listen(ctx, "unix", claimName)
		if err == nil {
			go answer(l)
			return l.Close, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("claim this network namespace: %w", err)
		}
		select {
		case <-again.C:
			continue
		case <-ctx.Done():
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, fmt.Errorf("wait for another netd: %w", ctx.Err())
		}
		by := claimant()
		if by == nil || by.Uid != 0 && by.Uid != uint32(os.Geteuid()) {
			log.Warn("another user has the name that keeps a second netd out of this network namespace: see 'ss -xlp'",
				"name", claimName)
			return func() error { return nil }, nil
		}
		return nil, fmt.Errorf("another netd (pid %d) works in this network namespace: stop it, or start this one in "+
			"another network namespace, such as by 'ip netns exec'", by.Pid)
	}
}

// answer lets everybody connect, so that nobody can fill the queue: see claimant.
func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// claimant is the process that has the claim; nil where nobody answers, as netd always does.
func claimant() *unix.Ucred {
	c, err := net.DialTimeout("unix", claimName, time.Second)
	if err != nil {
		return nil
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET,
			unix.SO_PEERCRED)
	}); e != nil || err != nil {
		return nil
	}
	return cred
}
