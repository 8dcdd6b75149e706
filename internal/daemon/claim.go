package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// claimName is in the abstract namespace of unix sockets, of which every network
// namespace has its own, and the kernel frees a name with its process: see unix(7).
const claimName = "@vethloom/netd"

// claimTimeout covers the last moments of a netd that is being replaced.
const claimTimeout = 5 * time.Second

// claimNetNS keeps a second netd out of this network namespace: each would take
// for a leftover what the other has made.
func claimNetNS(ctx context.Context, timeout time.Duration) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	var lc net.ListenConfig
	for {
		l, err := lc.Listen(ctx, "unix", claimName)
		if err == nil {
			return l.Close, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("claim this network namespace: %w", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, fmt.Errorf("wait for another netd%s: %w", claimant(), ctx.Err())
			}
			return nil, fmt.Errorf("another netd%s works in this network namespace: stop it, or start this one in another network namespace, such as by 'ip netns exec'", claimant())
		}
	}
}

// claimant names the process that has the claim, where the kernel tells.
func claimant() string {
	c, err := net.Dial("unix", claimName)
	if err != nil {
		return ""
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", cred.Pid)
}
