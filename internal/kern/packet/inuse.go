package packet

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// RFC 5227 section 2.1.1 has three probes, a second or two apart, and RFC 4862 a second to wait. That is for hosts that
// come up all at once and for switches that begin to forward late; what is up answers within milliseconds.
const (
	probes        = 3
	probeInterval = 100 * time.Millisecond
)

// InUse asks for addresses on a LAN by a link of it, and returns those that somebody there has, with the hardware
// address that answered. It takes 300 ms, and less when all are in use. Nobody answers on a link that is down.
func InUse(ctx context.Context, ns int, link string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error) {
	s, err := Open(ns, link, claims())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })()
	used := map[netip.Addr]plan.MAC{}
	for range probes {
		for _, a := range addrs {
			if _, known := used[a]; known {
				continue
			}
			f, err := Probe(a, s.MAC)
			if err != nil {
				return nil, err
			}
			if err := s.Send(f); err != nil && !isDown(err) {
				return nil, err
			}
		}
		if err := s.listen(ctx, addrs, used); err != nil {
			return nil, err
		}
		if len(used) == len(addrs) {
			break
		}
	}
	return used, nil
}

func isDown(err error) bool {
	return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOBUFS)
}

// listen notes for an interval who has some of the addresses.
func (s *Socket) listen(ctx context.Context, addrs []netip.Addr, used map[netip.Addr]plan.MAC) error {
	if err := s.SetReadDeadline(time.Now().Add(probeInterval)); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for len(used) < len(addrs) {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := s.Receive(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case isDown(err):
			continue // which is told once
		case err != nil:
			return err
		}
		a := claimed(f)
		if from := plan.MAC(f[6:12]); slices.Contains(addrs, a) && from != s.MAC { // a switch may bring back our own
			used[a] = from
		}
	}
	return nil
}

// claims accepts ARP and neighbour discovery.
func claims() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipFalse: 3},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipFalse: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{},
	}
}
